"""One study and several processes: a real PostgreSQL, a gRPC proxy of it, and a journal file."""

import gc
import logging
import multiprocessing
import os
import signal
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import optuna
import pytest

from modelsurgery.errors import RecipeError, StorageError, SurgeryError
from modelsurgery.evaluation.screening import Effect
from modelsurgery.search import Study, default_space
from modelsurgery.search import storages as module
from modelsurgery.search.study import Proposal

pytestmark = pytest.mark.xdist_group("postgres")
SPACE = default_space(4, (3,))
FIRST, SECOND = SPACE.first_settings()[:2]
FORK = multiprocessing.get_context("fork")  # torch takes long to import


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(module, "GRACE_SECONDS", 3)


def effect(behavior: float) -> Effect:
    known = {one.name: 0.0 for one in fields(Effect) if one.name in ("opposite", "clean")}
    return Effect(**known, behavior=behavior, divergence=0.01, capability_lost=0.0)


def tell(study: Study, proposal: Proposal, strength: float = 2.0, value: float = 0.5) -> None:
    study.tell(proposal, strength, effect(value), value)


def ask_and_hang(url: str, key: dict[str, str], asked: "multiprocessing.Queue[int]") -> None:
    """What a worker does that will be killed."""
    module.HEARTBEAT_SECONDS, module.GRACE_SECONDS = 1, 3
    with Study(SPACE, key, storage=url) as study:
        asked.put(study.ask().trial.number)
        time.sleep(600)


def test_logging_stays_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log, handlers = logging.getLogger("modelsurgery.tests"), logging.getLogger().handlers[:]
    with Study(SPACE, {"test": "logging"}, storage=f"sqlite:///{tmp_path / 'trials.sqlite'}"):
        log.warning("said aloud")
    assert "said aloud" in caplog.text
    assert logging.getLogger().handlers == handlers


def test_what_a_killed_process_had_is_made_again_and_counted_once(
    postgres: str, quick: None
) -> None:
    key = {"test": "killed"}
    with Study(SPACE, key, storage=postgres) as study:
        study.want(FIRST, 1.5)
        queue: multiprocessing.Queue[int] = FORK.Queue()
        dies = FORK.Process(target=ask_and_hang, args=(postgres, key, queue))
        dies.start()
        assert queue.get(timeout=60) == 0
        assert study.elsewhere == 1
        time.sleep(4)  # longer than without a heartbeat
        assert study.elsewhere == 1, "its heartbeats count"
        assert dies.pid is not None
        os.kill(dies.pid, signal.SIGKILL)
        dies.join()
        deadline = time.monotonic() + 20
        while study.elsewhere and time.monotonic() < deadline:
            time.sleep(0.2)
        assert study.elsewhere == 0
        assert study.ended == 0
        again = study.ask()
        assert (again.setting, again.strength) == (FIRST, 1.5)
        study.want(FIRST, 1.5)  # it is being made
        tell(study, again, 1.5)
        assert [(one.number, one.setting, one.strength) for one in study.trials()] == [
            (1, FIRST, 1.5)
        ]
        assert study.ended == 1


def test_a_trial_whose_process_died_before_a_heartbeat_is_made_again(
    postgres: str, quick: None
) -> None:
    with Study(SPACE, {"test": "early"}, storage=postgres) as study:
        study.want(FIRST)
        opened = module.open_storage(postgres)
        other = optuna.load_study(study_name=study.name, storage=opened)
        with pytest.warns(UserWarning, match="Heartbeat"):
            other.ask()  # and the process dies, before it says that it lives
        module.close_storage(opened)
        assert study.elsewhere == 1
        time.sleep(4.5)
        assert study.elsewhere == 0
        assert study.ask().setting == FIRST


def test_what_comes_too_late_is_left_to_who_has_it(postgres: str, quick: None) -> None:
    with Study(SPACE, {"test": "late"}, storage=postgres) as study:
        study.want(FIRST, 1.5)
        slow = study.ask()
        study._heartbeats.close()  # as if the whole process were suspended
        with Study(SPACE, {"test": "late"}, storage=postgres) as other:
            assert other.elsewhere == 1
            time.sleep(4.5)
            assert other.elsewhere == 0
            again = other.ask()
            tell(study, slow, 1.5, 0.1)
            tell(other, again, 1.5, 0.2)
            assert [one.effect.behavior for one in other.trials()] == [0.2]
            assert other.ended == study.ended == 1


def test_what_two_wanted_at_the_same_moment_is_made_once(postgres: str) -> None:
    with Study(SPACE, {"test": "double"}, storage=postgres) as study:
        parameters = SPACE.parameters(FIRST)
        for _ in range(2):  # neither saw the other's
            study._study.enqueue_trial(parameters, user_attrs={"strength": 1.5})
        study.want(SECOND)
        study._study.enqueue_trial(parameters, user_attrs={"strength": 2.5})
        asked = [study.ask() for _ in range(3)]
        assert [(one.setting, one.strength) for one in asked] == [
            (FIRST, 1.5), (SECOND, None), (FIRST, 2.5),
        ]  # fmt: skip
        for one in asked:
            tell(study, one, one.strength or 1.0)
        assert study.ended == 3


def open_and_leave(url: str) -> None:
    """What processes do that start together, on an empty database too."""
    with Study(SPACE, {"test": "together"}, storage=url) as study:
        study.want(FIRST)


def test_processes_that_start_together_make_the_tables_once(postgres: str) -> None:
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
    empty = postgres.removesuffix("/postgres") + "/empty"
    started = [FORK.Process(target=open_and_leave, args=(empty,)) for _ in range(3)]
    for one in started:
        one.start()
    for one in started:
        one.join(timeout=100)
    assert [one.exitcode for one in started] == [0, 0, 0]
    with Study(SPACE, {"test": "together"}, storage=empty) as study:
        assert study.ask().setting == FIRST


def test_a_proxy_keeps_the_same_study(postgres: str) -> None:
    pytest.importorskip("grpc", reason="needs grpcio, of the extra storage")
    from optuna.storages._grpc.server import make_server

    key = {"test": "proxy"}
    with ThreadPoolExecutor(4) as pool:
        behind = module.open_storage(postgres)
        proxy = make_server(behind, "127.0.0.1", 0, thread_pool=pool)
        port = proxy.add_insecure_port("127.0.0.1:0")
        proxy.start()
        with (
            Study(SPACE, key, storage=postgres) as study,
            Study(SPACE, key, storage=f"grpc://127.0.0.1:{port}") as other,
        ):
            study.want(FIRST)
            tell(other, other.ask())
            assert [one.setting for one in study.trials()] == [FIRST]
            proxy.stop(0).wait()
            with pytest.raises(StorageError, match=rf"grpc://127.0.0.1:{port}: .*refused"):
                other.want(SECOND)
    module.close_storage(behind)


def test_who_comes_to_a_file_in_use_leaves_the_trials_of_others_alone(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    first = Study(SPACE, {}, storage=path)
    with Study(SPACE, {}, storage=path) as second:
        mine = second.ask()
        with first:
            pass  # it was alone when it came, and leaves
        with Study(SPACE, {}, storage=path) as third:
            tell(second, mine)
            assert [one.number for one in third.trials()] == [0]


WRONG = "postgresql://postgres:wrong-one@"


def refusal(kind: type[SurgeryError], url: str) -> str:
    """What is said of a storage that cannot be used: one line, without the password."""
    with pytest.raises(kind) as caught:
        Study(SPACE, {}, storage=url)
    said = str(caught.value)
    assert "wrong-one" not in said
    assert "\n" not in said
    return said


def test_a_wrong_password_is_told_from_a_server_that_is_not_there(postgres: str) -> None:
    place = postgres.rpartition("@")[2]
    said = refusal(StorageError, f"{WRONG}{place}")
    assert f"storage postgresql://postgres:***@{place}: " in said
    assert 'password authentication failed for user "postgres"' in said
    by_query = refusal(StorageError, f"postgresql://postgres@{place}?password=wrong-one")
    assert f"postgresql://postgres@{place}?password=***: " in by_query
    assert "refused" in refusal(StorageError, f"{WRONG}127.0.0.1:9/x").lower()


def test_tables_of_another_optuna_are_refused(postgres: str) -> None:
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE other")
    other = postgres.removesuffix("/postgres") + "/other"
    module.close_storage(module.open_storage(other))
    with psycopg.connect(other, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    assert "upgrade" in refusal(StorageError, other)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Optuna leaves a connection open
        gc.collect()


@pytest.mark.parametrize(
    "url",
    [
        "nosuch://host/x",
        f"{WRONG}host:port/x",
        "postgresql://postgres:wrong-one",  # the host is missing, so this looks like a port
        "postgresql://postgres:a@wrong-one@host/x",
        "://",
    ],
)
def test_what_is_no_storage_is_refused(url: str) -> None:
    assert refusal(RecipeError, url).startswith("storage ")


def test_a_package_that_is_missing_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    said = refusal(RecipeError, f"{WRONG}host/x")
    assert "psycopg" in said
    assert "pip install 'modelsurgery[storage]'" in said


def test_a_large_seed_is_a_seed() -> None:
    with Study(SPACE, {}, seed=2**32 - 1) as study:
        for _ in range(8):
            tell(study, study.ask())
        assert study.ended == 8
