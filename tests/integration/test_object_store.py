"""Surgery in an object store, against a real server: bytes, traffic, what is left of a kill."""

import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("boto3")
pytest.importorskip("moto")
pytest.importorskip("flask")

from command_line import Commands, Outcome, contents, surgery_commands, without_progress
from modelsurgery import (
    Edit,
    Probe,
    apply_in_place,
    apply_to_copy,
    load_edit,
    open_checkpoint,
    save_edit,
    save_probe,
    undo,
    verify,
)
from modelsurgery.apply.composing import SCRATCH
from modelsurgery.apply.object_copy import CopiedObjects, apply_to_object_store
from modelsurgery.apply.object_records import UNFINISHED
from modelsurgery.apply.plan import plan_surgery
from modelsurgery.errors import (
    EditMismatchError,
    ModelNotFoundError,
    OutputExistsError,
    RecipeError,
    StorageError,
    SurgeryError,
    UnsupportedModelError,
)
from modelsurgery.files.object_store import Folder
from object_server import (
    BUCKET,
    SHARDS,
    WIDTH,
    ObjectServer,
    edit_of,
    edit_of_two_rows,
    object_server_used,
    write_large_model,
)
from tiny import write_tiny_model

SCATTERED = [0, 1, 40, 500, 3000, 5000, 5001, 8191]
AT_THE_END = [6000, 7000, 7040, 8190]


@dataclass(frozen=True)
class Stored:
    """A model on disk and in the store, an edit, and the copy made with it; read only."""

    server: ObjectServer
    model: Path
    url: str
    edit: Edit
    edit_file: Path
    done: CopiedObjects


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with object_server_used() as served:
        yield served


@pytest.fixture(scope="module")
def stored(server: ObjectServer, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    directory = tmp_path_factory.mktemp("stored")
    model = write_large_model(directory / "model")
    url = server.upload(model, "base")
    edit = edit_of(model, (SCATTERED, AT_THE_END))
    save_edit(edit, directory / "edit.safetensors")
    done = apply_to_object_store(url, [edit], f"s3://{BUCKET}/edited")
    return Stored(server, model, url, edit, directory / "edit.safetensors", done)


def test_the_copy_is_byte_for_byte_the_one_made_on_disk(stored: Stored, tmp_path: Path) -> None:
    here = apply_to_copy(stored.model, [stored.edit], tmp_path / "here")
    there = stored.server.download("edited", tmp_path / "there")
    expected = contents(tmp_path / "here")
    found = contents(there)
    assert sorted(found) == sorted(expected)
    different = {name for name in expected if expected[name] != found[name]}
    assert {Path(name).name for name in different} <= {"surgery.json"}
    assert stored.done.coverage == here.coverage
    assert stored.done.left_behind == ("pytorch_model.bin",)


def test_a_downloaded_copy_verifies_and_gives_back_the_base(stored: Stored, tmp_path: Path) -> None:
    there = stored.server.download("edited", tmp_path / "there")
    checked = verify(there)
    assert checked.wrong == ()
    assert checked.rows_checked == len(SCATTERED) + len(AT_THE_END)
    assert checked.files_checked == 4
    undo(there)
    for name in SHARDS:
        assert (there / name).read_bytes() == (stored.model / name).read_bytes()


def test_few_bytes_go_through_the_client_and_nothing_is_left_over(stored: Stored) -> None:
    moved = stored.done.bytes_received + stored.done.bytes_sent
    assert moved < 0.02 * stored.done.coverage.bytes_total
    assert stored.server.uploads() == 0
    assert not [name for name in stored.server.names("edited") if "scratch" in name]
    assert UNFINISHED not in stored.server.names("edited")


def test_an_edited_copy_is_edited_again(stored: Stored, tmp_path: Path) -> None:
    here = stored.server.download("edited", tmp_path / "here")
    second = edit_of(here, ([], [7, 7000]))
    apply_to_object_store(stored.done.url, [second], f"s3://{BUCKET}/twice")
    there = stored.server.download("twice", tmp_path / "there")
    apply_in_place(here, [second])
    for name in SHARDS:
        assert (there / name).read_bytes() == (here / name).read_bytes()
    assert undo(there, everything=True).surgeries_undone == 2
    assert (there / SHARDS[1]).read_bytes() == (stored.model / SHARDS[1]).read_bytes()
    with pytest.raises(EditMismatchError, match=f"s3://{BUCKET}/edited|rows of model"):
        apply_to_object_store(stored.done.url, [stored.edit], f"s3://{BUCKET}/wrong")
    assert not stored.server.names("wrong")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_small_and_transposed_models(server: ObjectServer, tmp_path: Path, family: str) -> None:
    model = write_tiny_model(tmp_path / "model", family)
    url = server.upload(model, family)
    edit = edit_of_two_rows(model)
    apply_to_object_store(url, [edit], f"{url}-edited")
    there = server.download(f"{family}-edited", tmp_path / "there")
    here = apply_to_copy(model, [edit], tmp_path / "here").directory
    name = "model.safetensors"
    assert (there / name).read_bytes() == (here / name).read_bytes()
    assert verify(there).wrong == ()


def test_plan_reads_headers_and_a_sample(stored: Stored) -> None:
    remote, local = open_checkpoint(stored.url), open_checkpoint(stored.model)
    assert (remote.config, remote.tensors) == (local.config, local.tensors)
    planned = plan_surgery(remote, [stored.edit])
    assert planned.rows_edited == stored.edit.row_count
    assert remote.remote is not None
    assert remote.remote.folder.traffic.received < 2 << 20
    directory = remote.directory
    del remote
    assert not directory.exists()


def test_an_edit_from_a_probe_is_the_same_from_the_store(
    stored: Stored, commands: Commands, tmp_path: Path
) -> None:
    generator = np.random.default_rng(2)
    weight = generator.standard_normal((2, WIDTH), np.float32)
    save_probe(Probe(weight, np.zeros(2, np.float32)), tmp_path / "probe.safetensors")
    made = []
    for number, model in enumerate((stored.model, stored.url)):
        out = tmp_path / f"{number}.safetensors"
        done = run(
            commands, stored.server, "edit", model, "--probe", tmp_path / "probe.safetensors",
            "--rows", 50, "--strength", 1, "--out", out,
        )  # fmt: skip
        assert done.code == 0, done.stderr
        made.append(load_edit(out))
    assert made[0].content_sha256 == made[1].content_sha256
    assert [one.base_rows_sha256 for one in made[0].updates] == [
        one.base_rows_sha256 for one in made[1].updates
    ]


@pytest.fixture(scope="module")
def commands() -> Commands:
    return surgery_commands()


def run(commands: Commands, server: ObjectServer, *arguments: object) -> Outcome:
    """Run `surgery` with the server's variables."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        running = commands.start(*arguments, stdout=out, stderr=err, environment=server.environment)
        code = running.wait()
        out.seek(0)
        err.seek(0)
        return Outcome(code, out.read().decode(), without_progress(err.read().decode()))


def test_commands(stored: Stored, commands: Commands) -> None:
    out = f"s3://{BUCKET}/by-command"
    planned = run(commands, stored.server, "plan", stored.url, stored.edit_file)
    assert planned.code == 0, planned.stderr
    assert "bytes_free" not in planned.stdout
    assert stored.url in planned.stdout
    applied = run(commands, stored.server, "apply", stored.url, stored.edit_file, "--out", out)
    assert applied.code == 0, applied.stderr
    assert out in applied.stdout
    assert "not read back" in applied.stdout
    told = run(commands, stored.server, "inspect", out, "--json")
    assert told.code == 0, told.stderr
    assert '"kind": "model"' in told.stdout
    for arguments, says in (
        (("apply", stored.url, stored.edit_file, "--in-place"), "cannot be edited in place"),
        (("apply", stored.url, stored.edit_file, "--out", out), "already exists"),
        (("apply", stored.url, stored.edit_file, "--out", "here"), "on this machine"),
        (("undo", out), "download"),
        (("verify", out), "download"),
        (("diff", stored.url, out), "download"),
        (("chat", stored.url, "--edit", stored.edit_file), "download"),
        (("export", stored.url, stored.edit_file, "--to", "peft", "--out", "x"), "download"),
    ):
        refused = run(commands, stored.server, *arguments)
        assert refused.code == 2, refused.stderr
        assert refused.stderr.count("\n") == 1
        assert says in refused.stderr


def test_what_cannot_be_done_is_refused_in_one_line(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(kind: type[SurgeryError], says: str, source: str, out: str) -> None:
        with pytest.raises(kind, match=says) as caught:
            apply_to_object_store(source, [stored.edit], out)
        assert "\n" not in str(caught.value)

    new = f"s3://{BUCKET}/new"
    refused(OutputExistsError, "already exists", stored.url, stored.done.url)
    refused(ModelNotFoundError, "no such bucket", "s3://nosuch-bucket/base", new)
    refused(ModelNotFoundError, "no such bucket", stored.url, "s3://nosuch-bucket/new")
    refused(ModelNotFoundError, "is empty", f"s3://{BUCKET}/nosuch", new)
    refused(RecipeError, "BUCKET/FOLDER", "s3://bucket", new)
    refused(UnsupportedModelError, "local disk only", f"s3://{BUCKET}/model.gguf", new)
    stored.server.client.put_object(Bucket=BUCKET, Key="bare/x.txt", Body=b"x")
    refused(
        ModelNotFoundError, f"s3://{BUCKET}/bare has no config.json", f"s3://{BUCKET}/bare", new
    )
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        refused(StorageError, "cannot reach", stored.url, new)
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        refused(StorageError, "no credentials", stored.url, new)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "boto3", None)
        refused(RecipeError, r"modelsurgery\[s3\]", stored.url, new)
    assert not stored.server.names("new")


def test_a_source_that_changes_meanwhile_is_not_mixed(stored: Stored) -> None:
    checkpoint = open_checkpoint(stored.url)
    assert checkpoint.remote is not None
    client, key = stored.server.client, f"base/{SHARDS[2]}"
    content = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    try:
        client.put_object(Bucket=BUCKET, Key=key, Body=content[:-1] + b"x")
        with pytest.raises(StorageError, match="changed while it was read"):
            checkpoint.remote.read(SHARDS[2], 0, 100)
    finally:
        client.put_object(Bucket=BUCKET, Key=key, Body=content)


def test_a_bucket_that_keeps_versions_is_left_with_those_of_the_copy_alone(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = stored.server.client
    client.create_bucket(Bucket="versions")
    client.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    client.put_object(Bucket="versions", Key=f"edited/{SCRATCH}/x", Body=b"left by a kill")
    done = apply_to_object_store(stored.url, [stored.edit], "s3://versions/kept/edited")
    assert done.coverage == stored.done.coverage
    there = Folder("s3://versions/kept").versions("")
    assert not [name for name, _ in there if "scratch" in name]
    assert Folder("s3://versions/edited").versions(SCRATCH) != []
    Folder("s3://versions/edited").delete(Folder("s3://versions/edited").versions(SCRATCH))
    assert Folder("s3://versions/edited").versions("") == []


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_same_command_goes_on_after_a_kill(
    stored: Stored, commands: Commands, sent: signal.Signals
) -> None:
    name = f"killed-{sent.name}"
    arguments = ("apply", stored.url, stored.edit_file, "--out", f"s3://{BUCKET}/{name}")
    running = commands.start(*arguments, environment=stored.server.environment)
    deadline = time.monotonic() + 300
    while SHARDS[0] not in stored.server.names(name):
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(sent)
    assert running.wait() == (-signal.SIGKILL if sent == signal.SIGKILL else 130)
    left = stored.server.names(name)
    assert UNFINISHED in left
    assert "config.json" not in left
    with pytest.raises(ModelNotFoundError, match=r"no config.json"):
        open_checkpoint(f"s3://{BUCKET}/{name}")
    if sent != signal.SIGKILL:
        assert stored.server.uploads() == 0
        assert not [one for one in left if "scratch" in one]
    other = edit_of(stored.model, ([5], [5]))
    with pytest.raises(OutputExistsError, match="unfinished copy of another"):
        apply_to_object_store(stored.url, [other], f"s3://{BUCKET}/{name}")
    done = apply_to_object_store(stored.url, [stored.edit], f"s3://{BUCKET}/{name}")
    assert SHARDS[0] in done.kept
    assert stored.server.uploads() == 0
    assert stored.server.names(name) == stored.server.names("edited")
    for file in SHARDS[:2]:
        resumed, whole = (
            stored.server.client.get_object(Bucket=BUCKET, Key=f"{folder}/{file}")["Body"].read()
            for folder in (name, "edited")
        )
        assert resumed == whole
