"""One search by several processes, as users start them: one killed, others refused."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import FrozenTrial, TrialState

from command_line import Refused, Surgery, surgery_commands, write_labeled, written
from modelsurgery.search import Study, default_space
from modelsurgery.search.sharing import SharedSearch, end_sharing, find_search
from modelsurgery.search.storages import close_storage, open_storage
from postgres import PASSWORD
from tiny import write_tiny_model

CLUSTER = Path(__file__).resolve().parents[2] / "docs" / "guides" / "cluster"
# Little is measured, and a random model needs wide limits.
SMALL = ("--prompt-count", "6", "--samples", "1", "--max-new-tokens", "4",
         "--max-perplexity", "10000%", "--max-divergence", "10",
         "--max-capability-drop", "100")  # fmt: skip
TRIALS = 40
NO_EFFECT = 5  # on a random model; all is written

# Before a process makes trials: a dead one is noticed sooner than after the minute that suits
# clusters, and all three make trials before the goal is reached. The third is killed in its second
# batch; the others go on after that.
BEFORE = """
import os, pathlib, signal, time
import modelsurgery.search.storages as storages
from modelsurgery.evaluation.screening import Screen

storages.HEARTBEAT_SECONDS, storages.GRACE_SECONDS = 1, 4
place, role, batches, measure = pathlib.Path({place!r}), {role!r}, [], Screen.measure

def wait_for(other):
    while not (place / other).exists():
        time.sleep(0.05)

def in_turn(screen, edits, **options):
    batches.append(role)
    turn = role, len(batches)
    if turn == ("killed", 2):
        (place / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if turn == ("stays", 2):
        (place / "stays").touch()
    if turn in (("stays", 2), ("begins", 1)):
        wait_for("killed")
    if turn == ("begins", 1):
        wait_for("stays")
    return measure(screen, edits, **options)

Screen.measure = in_turn
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and labeled texts."""
    place = tmp_path_factory.mktemp("tiny")
    return write_tiny_model(place / "model"), write_labeled(place / "texts.jsonl", 120)


def trials_in(url: str, study: str) -> list[FrozenTrial]:
    """All trials of a study, as Optuna has them."""
    storage = open_storage(url)
    try:
        return optuna.load_study(study_name=study, storage=storage).trials
    finally:
        close_storage(storage)


@pytest.mark.timeout(900)
@pytest.mark.xdist_group("postgres")
def test_three_processes_search_and_one_is_killed(
    surgery: Surgery, postgres: str, tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    model, texts = tiny
    tune = ("tune", model, "--texts", texts, *SMALL, "--trials", TRIALS, "--storage", postgres)
    join = ("worker", postgres, "--wait", 120, "--json")
    commands = {"begins": (*tune, "--out", tmp_path / "run"), "stays": join, "killed": join}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        processes = {
            role: surgery_commands().start(
                *arguments, stdout=errors if role == "begins" else out, stderr=errors,
                before=BEFORE.format(place=str(tmp_path), role=role),
            )
            for role, arguments in commands.items()
        }  # fmt: skip
        codes = {role: process.wait() for role, process in processes.items()}
        assert codes == {"begins": NO_EFFECT, "stays": 0, "killed": -signal.SIGKILL}, written(
            errors
        )
        joined = json.loads(written(out))
        assert PASSWORD not in written(errors)
    numbers = {role: str(process.process) for role, process in processes.items()}

    search = json.loads((tmp_path / "run" / "results.json").read_text())["search"]
    trials = trials_in(postgres, joined["study"])
    told = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(told) + search["broken"] == TRIALS
    assert [each["number"] for each in search["trials"]] == [trial.number for trial in told]

    # Nothing lost: what the dead process had was put back, made by others, and counted once.
    made_by = Counter(trial.user_attrs["process"].split()[-1] for trial in told)
    assert made_by.keys() == set(numbers.values())
    assert made_by[numbers["stays"]] == joined["trials_made_here"]
    assert made_by[numbers["begins"]] == search["trials_made"]
    lost = {
        trial.number: trial.params
        for trial in trials
        if trial.state == TrialState.FAIL
        and trial.user_attrs.get("process", "").endswith(f" {numbers['killed']}")
    }
    again = {
        trial.system_attrs["failed_trial"]: trial.params
        for trial in trials
        if "failed_trial" in trial.system_attrs
    }
    assert again == lost
    assert lost
    settings = Counter(json.dumps([t.params, t.user_attrs["strength"]]) for t in told)
    assert max(settings.values()) == 1, "made twice"

    # The same trials give the same edit; and no file says the password.
    repeated = surgery(*tune, "--out", tmp_path / "again", "--json")
    assert json.loads(repeated.stdout)["search"]["trials_made"] == 0
    edits = [tmp_path / name / "edit.safetensors" for name in ("run", "again")]
    assert edits[0].read_bytes() == edits[1].read_bytes()
    assert not [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and PASSWORD.encode() in path.read_bytes()
    ]


@pytest.fixture(scope="module")
def journal(
    surgery: Surgery, tiny: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A search that is over, in a file."""
    model, texts = tiny
    path = tmp_path_factory.mktemp("search") / "shared.journal"
    done = surgery("tune", model, "--texts", texts, *SMALL, "--trials", 8, "--storage", path,
                   "--out", path.parent / "run")  # fmt: skip
    assert done.code == NO_EFFECT, done.stderr
    return path


def study_of(journal: Path) -> str:
    (name,) = optuna.get_all_study_names(open_storage(journal))
    return name


@pytest.fixture
def going_on(journal: Path, tmp_path: Path) -> Path:
    return with_attributes(journal, tmp_path / "going-on.journal", search_state="open")


def with_attributes(journal: Path, copy: Path, **attributes: object) -> Path:
    """A copy of a search of which something else is said."""
    shutil.copy(journal, copy)
    study = optuna.load_study(study_name=study_of(copy), storage=open_storage(copy))
    for name, value in attributes.items():
        study.set_user_attr(name, value)
    return copy


@pytest.mark.parametrize("is_named", [True, False])
def test_a_worker_of_a_search_that_is_over_makes_nothing(
    surgery: Surgery, journal: Path, tmp_path: Path, is_named: bool
) -> None:
    """Without its name one that ended as the worker started, which may be the one that is meant."""
    name = study_of(journal)
    just_ended = with_attributes(journal, tmp_path / "ended.journal", search_ended=time.time())
    chosen = ("--study", name[:8]) if is_named else ()
    done = surgery("worker", just_ended, *chosen, "--wait", 3600, "--json")
    assert json.loads(done.stdout) == {"study": name, "trials_made_here": 0}, done.stderr


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ("texts", "labeled texts"),
        ("model", "model (over 1 GiB of weights: also the place, sizes and times of its files)"),
    ],
)
def test_a_worker_with_other_inputs_is_told_which(
    refused: Refused, going_on: Path, tmp_path: Path, other: str, named: str
) -> None:
    if other == "texts":
        given = write_labeled(tmp_path / "others.jsonl", 116)
    else:
        given = write_tiny_model(tmp_path / "other", seed=1)
    study = study_of(going_on)
    refused("worker", going_on, "--study", study, f"--{other}", given, code=2,
            says=f"study {study}: not the same here as in the search: {named}; give")  # fmt: skip


def test_a_worker_of_another_processor_is_told_so(
    refused: Refused, tiny: tuple[Path, Path], going_on: Path, tmp_path: Path
) -> None:
    """A search on a GPU keeps bfloat16, which a CPU widens."""
    study = study_of(going_on)
    recorded = json.dumps("torch.float32")
    content = going_on.read_text()
    assert recorded in content
    other = tmp_path / "of-a-gpu.journal"
    other.write_text(content.replace(recorded, json.dumps("torch.bfloat16")))
    refused("worker", other, "--study", study, code=2, says="in the search: dtype (")


def test_what_cannot_be_joined_is_one_line(refused: Refused, journal: Path, tmp_path: Path) -> None:
    ended = with_attributes(journal, tmp_path / "ended.journal", search_ended=time.time() - 61)
    for arguments, code, says in (
        ((ended, "--wait", 0), 1, "no search that is going on"),
        ((journal, "--study", "f00", "--wait", 0), 1, "no search f00"),
        ((tmp_path / "none.journal", "--wait", 0), 1, "no search that is going on"),
        (("postgresql://me:secret@127.0.0.1:9/x",), 1, "postgresql://me:***@127.0.0.1:9/x: "),
        (("postgresql://me:secret",), 2, "postgresql://…: not a URL"),
    ):
        assert "secret" not in refused("worker", *arguments, code=code, says=says)


@pytest.mark.xdist_group("postgres")
def test_a_search_is_found_through_a_proxy(postgres: str) -> None:
    pytest.importorskip("grpc", reason="needs grpcio, of the extra storage")
    from optuna.storages._grpc.server import make_server

    space, shown = default_space(4, (3,)), {"model": ["a", "torch.float32"]}
    with Study(space, {"test": "found"}, storage=postgres) as study, ThreadPoolExecutor(2) as pool:
        shared = SharedSearch(study.name, {"model": "demo"}, shown, 8, None, "/nowhere")
        shared.share(study)
        behind = open_storage(postgres)
        proxy = make_server(behind, "127.0.0.1", 0, thread_pool=pool)
        port = proxy.add_insecure_port("127.0.0.1:0")
        proxy.start()
        address = f"grpc://127.0.0.1:{port}"
        assert find_search(address) == shared
        end_sharing(study)
        assert find_search(address, study.name) == replace(shared, is_over=True)
        proxy.stop(0).wait()
        close_storage(behind)


def test_a_search_has_one_place_for_its_trials(refused: Refused) -> None:
    refused("tune", "demo", "--study", "a", "--storage", "b", code=2, says="study or storage")


SRUN = """\
#!/bin/bash
shift
SLURM_PROCID=1 "$@" &
SLURM_PROCID=0 "$@"
code=$?
wait
exit $code
"""


@pytest.mark.parametrize("name", ["srun.sh", "array.sh"])
def test_scripts_for_slurm_parse(name: str) -> None:
    subprocess.run(["bash", "-n", CLUSTER / name], check=True)


def test_the_script_for_srun_searches(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    """With the real `surgery`, and a stand-in for `srun`, which starts two tasks."""
    typed = 'surgery tune "$MODEL" --texts "$TEXTS" --trials 200'
    script = (CLUSTER / "srun.sh").read_text()
    assert typed in script
    quick = tmp_path / "srun.sh"
    quick.write_text(script.replace(typed, f"{typed[:-3]}8 {' '.join(SMALL)}"))
    programs = tmp_path / "programs"
    programs.mkdir()
    surgery_commands().write_stand_in(programs)
    (programs / "srun").write_text(SRUN)
    (programs / "srun").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "MODEL": str(tiny[0]),
        "TEXTS": str(tiny[1]),
        "OUT": str(tmp_path / "out"),
        "STORAGE": str(tmp_path / "study.journal"),
    }
    done = subprocess.run(
        ["bash", quick], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == NO_EFFECT, done.stderr
    assert "trials made here" in done.stdout
    assert (tmp_path / "out" / "report.html").exists()


def test_the_job_for_kubernetes_is_what_the_guide_says() -> None:
    job: dict[str, Any] = yaml.safe_load((CLUSTER / "job.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec, (pod,) = job["spec"], job["spec"]["template"]["spec"]["containers"]
    assert spec["completionMode"] == "Indexed"
    assert spec["successPolicy"]["rules"] == [{"succeededIndexes": "0"}]
    subprocess.run(["bash", "-n"], input=pod["command"][2], text=True, check=True)
    mounted = {one["name"] for one in pod["volumeMounts"]}
    assert mounted == {one["name"] for one in job["spec"]["template"]["spec"]["volumes"]}
