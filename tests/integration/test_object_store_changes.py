"""What may happen to a model in an object store while it is copied, and what servers may do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("boto3")
pytest.importorskip("moto")
pytest.importorskip("flask")

from modelsurgery import Edit, find_gate_matrices, open_checkpoint, verify
from modelsurgery.apply.object_copy import CopiedObjects, apply_to_object_store
from modelsurgery.errors import RecipeError, StorageError, VerificationError
from modelsurgery.files import object_store
from modelsurgery.files.object_store import Folder
from modelsurgery.files.parallel import in_parallel
from modelsurgery.files.progress import Progress, silent
from object_server import (
    BUCKET,
    ObjectServer,
    breaking_off,
    edit_of,
    edit_of_two_rows,
    object_server_used,
)
from tiny import write_tiny_model


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with object_server_used() as served:
        yield served


@dataclass(frozen=True)
class Small:
    """A tiny model in a folder of its own, with an edit; free to change."""

    server: ObjectServer
    model: Path
    name: str
    url: str
    edit: Edit

    def put(self, key: str, content: bytes) -> None:
        self.server.client.put_object(Bucket=BUCKET, Key=f"{self.name}/{key}", Body=content)

    def content(self, key: str) -> bytes:
        found: bytes = self.server.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return found

    def copy(self, edit: Edit | None = None, progress: Progress = silent) -> CopiedObjects:
        return apply_to_object_store(
            self.url, [edit or self.edit], f"{self.url}-edited", progress=progress
        )


@pytest.fixture
def small(server: ObjectServer, tmp_path: Path) -> Small:
    model = write_tiny_model(tmp_path / "model", "llama")
    name = tmp_path.name
    return Small(server, model, name, server.upload(model, name), edit_of_two_rows(model))


def test_a_model_that_was_replaced_after_its_surgery_is_not_edited_again(small: Small) -> None:
    edited = small.copy()
    (weights,) = open_checkpoint(small.model).files
    again = Small(small.server, small.model, f"{small.name}-edited", edited.url, small.edit)
    again.put(weights, (small.model / weights).read_bytes())
    with pytest.raises(VerificationError, match="not as surgery 0001 left them") as caught:
        again.copy()
    assert edited.url in str(caught.value)
    assert not small.server.names(f"{small.name}-edited-edited")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_source_that_changes_while_it_is_copied_ends_the_surgery(small: Small, name: str) -> None:
    content = (small.model / name).read_bytes()

    @contextmanager
    def progress(_stage: str, _total: int) -> Iterator[Callable[[int], None]]:
        yield lambda _: small.put(name, content[:-1] + b" ")

    with pytest.raises(StorageError, match=r"changed while it was (copied|read)"):
        small.copy(progress=progress)
    assert "config.json" not in small.server.names(f"{small.name}-edited")


@pytest.mark.parametrize("place", [20, -1])
def test_a_copy_that_is_not_what_was_sent_is_deleted(small: Small, place: int) -> None:
    """In its header, and in the last row of the last gate matrix of the file."""
    gates = find_gate_matrices(open_checkpoint(small.model))
    last = max((open_checkpoint(small.model).tensors[gate.tensor] for gate in gates),
               key=lambda one: one.start)  # fmt: skip
    edit = edit_of(small.model, tuple([gate.rows - 1] for gate in gates))
    name = f"{small.name}-edited"

    @contextmanager
    def progress(_stage: str, _total: int) -> Iterator[Callable[[int], None]]:
        yield lambda _: None
        content = bytearray(small.content(f"{name}/{last.file}"))
        content[place if place > 0 else last.start + last.size_bytes - 1] ^= 1
        small.server.client.put_object(Bucket=BUCKET, Key=f"{name}/{last.file}", Body=content)

    with pytest.raises(VerificationError, match="the copy was deleted"):
        small.copy(edit, progress)
    assert small.server.names(name) == []


def test_objects_larger_than_the_server_copies_at_once(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(range(256)) * (11 << 12)  # 11 MiB
    small.put("vocabulary.dat", content)
    monkeypatch.setattr(object_store, "MOST_COPIED_BYTES", 6 << 20)
    monkeypatch.setattr(object_store, "COPIED_PART_BYTES", 5 << 20)
    small.copy()
    assert small.content(f"{small.name}-edited/vocabulary.dat") == content


def test_folders_of_many_objects_and_of_odd_names(small: Small, tmp_path: Path) -> None:
    in_parallel(lambda number: small.put(f"notes/{number}", b"x"), range(1001), 8)
    for name in ("a//b", "../c", "folder/", " space+plus%20 ü.txt"):
        small.put(name, b"y")
    done = apply_to_object_store(f"{small.url}/", [small.edit], f"{small.url}-edited/")
    assert done.left_behind == ("a//b",)  # the others are hidden, or no files
    copied = Folder(f"{small.url}-edited").objects()
    assert {f"notes/{number}" for number in range(1001)} <= set(copied)
    assert " space+plus%20 ü.txt" in copied
    assert verify(small.server.download(f"{small.name}-edited", tmp_path / "there")).wrong == ()


def test_a_copy_inside_the_model_is_refused(small: Small) -> None:
    with pytest.raises(RecipeError, match="is inside the model"):
        apply_to_object_store(small.url, [small.edit], f"{small.url}/edited")


def test_answers_that_break_off_are_asked_for_again(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(small.server.environment["AWS_ENDPOINT_URL"].rpartition(":")[2])
    content = bytes(300_000)
    small.put("large", content)
    etag = Folder(small.url).objects()["large"].etag
    for times, is_read in ((2, True), (1000, False)):
        with breaking_off(port, after=100_000, times=times) as before:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{before}")
            folder = Folder(small.url)
            if is_read:
                assert folder.read("large", 0, len(content), etag) == content
                continue
            with pytest.raises(StorageError, match="cannot reach the server") as caught:
                folder.read("large", 0, len(content), etag)
            assert "\n" not in str(caught.value)


def test_errors_of_settings_are_one_line_without_passwords(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value, url, says in (
        ("AWS_ENDPOINT_URL", "http://me:hunter2@127.0.0.1:9", small.url, "cannot reach"),
        ("AWS_ENDPOINT_URL", "no address", small.url, "AWS_"),
        ("AWS_PROFILE", "nosuch", small.url, "nosuch"),
        ("AWS_REGION", "us-east-1", "s3://Not_A Bucket/x", "name of the bucket"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(StorageError, match=says) as caught:
                open_checkpoint(url)
        assert "\n" not in str(caught.value)
        assert "hunter2" not in str(caught.value)
