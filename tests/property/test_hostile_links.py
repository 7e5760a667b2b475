"""Links, pipes and directories where a surgery expects files of its own.

Nothing waits for a pipe, and nothing outside the model directory is written, removed or carried.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import contents
from fuzzing import state
from killing import copy_tree
from modelsurgery import SurgeryError, apply_to_copy, load_edit
from modelsurgery.apply.in_place import apply_in_place
from modelsurgery.apply.undoing import undo
from modelsurgery.apply.verification import verify
from modelsurgery.errors import CheckpointError
from operated import Operated, make_operated, weights

SHARD = "model-00003-of-00003.safetensors"
OURS = (
    *(".surgery", ".surgery/0001", ".surgery/0001/before.bin", ".surgery/0001/journal.json"),
    *("surgery.json", SHARD, "config.json", "model.safetensors.index.json"),
)
MORE = (
    *(".surgery/.staged-0002", ".surgery/0001/more", ".surgery/0002", ".surgery.json.abcdefgh"),
    *(f".{SHARD}.private-copy", f"{SHARD}.in-surgery", "more"),
)
Surgeries = dict[str, Callable[[Path, Operated], object]]
SURGERIES: Surgeries = {
    "undo": lambda model, _: undo(model),
    "undo --all": lambda model, _: undo(model, everything=True),
    "verify": lambda model, _: verify(model),
    "in place": lambda model, made: apply_in_place(model, [load_edit(made.second)]),
    "copy": lambda model, made: apply_to_copy(model, [load_edit(made.second)], model.parent / "to"),
}


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Operated:
    return make_operated(tmp_path_factory.mktemp("operated"))


@pytest.fixture(autouse=True)
def without_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing takes most of the time, and nothing here is about a power cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def moved_and_linked(path: Path, outside: Path) -> None:
    path.rename(outside / path.name)
    path.symlink_to(outside / path.name)


def linked_to_a_file(path: Path, outside: Path) -> None:
    (outside / "file").write_text("secret")
    path.symlink_to(outside / "file")


def linked_to_a_directory(path: Path, outside: Path) -> None:
    (outside / "directory").mkdir()
    (outside / "directory/file").write_text("secret")
    path.symlink_to(outside / "directory")


def linked_to_nothing(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "nothing")


def pipe(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def directory(path: Path, outside: Path) -> None:
    path.mkdir()


def empty_file(path: Path, outside: Path) -> None:
    path.touch()


STRANGE = (linked_to_a_file, linked_to_a_directory, linked_to_nothing, pipe, directory, empty_file)
CASES = [
    *((name, moved_and_linked) for name in OURS),
    *((name, strange) for name in (*OURS, *MORE) for strange in STRANGE),
]
CASES.remove((".surgery", directory))  # an empty one is what a killed surgery may leave; removed


@pytest.mark.parametrize("surgery", SURGERIES)
@pytest.mark.parametrize(("name", "strange"), CASES)
def test_strange_file_is_refused_or_does_not_matter(
    operated: Operated,
    tmp_path: Path,
    name: str,
    strange: Callable[[Path, Path], None],
    surgery: str,
) -> None:
    model = copy_tree(operated.edited, tmp_path / "model")
    outside = tmp_path / "outside"
    outside.mkdir()
    path = model / name
    if strange is not moved_and_linked and path.exists():
        path.rename(tmp_path / "taken away")
    strange(path, outside)
    before, kept = state(model), state(outside)
    try:
        SURGERIES[surgery](model, operated)
    except SurgeryError:
        assert state(model) == before
        assert not (tmp_path / "to").exists()
    else:
        made = (operated.base, operated.edited, operated.edited_twice)
        assert weights(model) in [weights(one) for one in made]
        if surgery == "copy":
            assert weights(tmp_path / "to") == weights(operated.edited_twice)
            assert "secret" not in str(contents(tmp_path / "to/.surgery"))
    assert state(outside) == kept


GGUF_SHARD = "tiny-00003-of-00003.gguf"
RECORDS = "tiny-00001-of-00003.gguf.surgery"
GGUF_OURS = (
    *(RECORDS, f"{RECORDS}/.surgery", f"{RECORDS}/.surgery/0001", f"{RECORDS}/surgery.json"),
    *(f"{RECORDS}/.surgery/0001/before.bin", f"{RECORDS}/.surgery/0001/journal.json", GGUF_SHARD),
)
GGUF_MORE = (
    *(f"{RECORDS}/.surgery/.staged-0002", f"{RECORDS}/.surgery/0002", f"{RECORDS}/more"),
    *(f".{GGUF_SHARD}.private-copy", f"{GGUF_SHARD}.in-surgery", "more"),
)
GGUF_CASES = [
    *((name, moved_and_linked) for name in GGUF_OURS),
    *((name, strange) for name in (*GGUF_OURS, *GGUF_MORE) for strange in STRANGE),
]


GGUF_CASES.remove((f"{RECORDS}/.surgery", directory))  # as above


@pytest.fixture(scope="module")
def operated_gguf(tmp_path_factory: pytest.TempPathFactory) -> Operated:
    return make_operated(tmp_path_factory.mktemp("operated"), "gguf")


@pytest.mark.parametrize("surgery", ["undo --all", "verify", "in place", "copy"])
@pytest.mark.parametrize(("name", "strange"), GGUF_CASES)
def test_strange_file_beside_a_gguf_file_is_refused_or_does_not_matter(
    operated_gguf: Operated,
    tmp_path: Path,
    name: str,
    strange: Callable[[Path, Path], None],
    surgery: str,
) -> None:
    made = operated_gguf
    directory = copy_tree(made.edited, tmp_path / "model")
    outside = tmp_path / "outside"
    outside.mkdir()
    path = directory / name
    if strange is not moved_and_linked and path.exists():
        path.rename(tmp_path / "taken away")
    strange(path, outside)
    before, kept = state(directory), state(outside)
    model, target = made.model(directory), made.destination(tmp_path / "to")
    try:
        if surgery == "copy":
            apply_to_copy(model, [load_edit(made.second)], target)
        else:
            SURGERIES[surgery](model, made)
    except SurgeryError:
        assert state(directory) == before
        assert not list((tmp_path / "to").glob("tiny*"))
    else:
        assert weights(directory) in [
            weights(one) for one in (made.base, made.edited, made.edited_twice)
        ]
        if surgery == "copy":
            assert weights(tmp_path / "to") == weights(made.edited_twice)
            assert "secret" not in str(contents(tmp_path / "to"))
    assert state(outside) == kept


def test_file_whose_name_is_no_text_is_refused(operated: Operated, tmp_path: Path) -> None:
    model = copy_tree(operated.edited, tmp_path / "model")
    (model / os.fsdecode(b"caf\xe9.txt")).touch()
    before = state(tmp_path)
    with pytest.raises(CheckpointError, match="is not UTF-8"):
        SURGERIES["copy"](model, operated)
    assert state(tmp_path) == before
