"""What a surgery must not touch, or cannot trust: it is refused with one line and nothing changes.

Locks, hard links, symbolic links, write protection, and journals that are damaged.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from command_line import Refused, contents
from killing import Killer, copy_tree, killing
from modelsurgery import apply_to_copy, load_edit, open_checkpoint
from modelsurgery.apply.in_place import apply_in_place
from modelsurgery.apply.undoing import undo
from operated import Operated, make_operated, weights

ROWS = ".surgery/0001/before.bin"
JOURNAL = ".surgery/0001/journal.json"


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Operated:
    return make_operated(tmp_path_factory.mktemp("operated"))


@pytest.fixture
def killer() -> Iterator[Killer]:
    with killing() as served:
        yield served


def test_two_surgeries_at_once(
    killer: Killer, operated: Operated, refused: Refused, tmp_path: Path
) -> None:
    rehearsal = copy_tree(operated.edited, tmp_path / "rehearsal")
    steps = killer.run("in_place", rehearsal, operated.second).steps
    model = copy_tree(operated.edited, tmp_path / "model")
    stopped = killer.run(
        "in_place", model, operated.second, at=steps.index("rename") + 1, stop=True
    )
    assert stopped.code < 0
    says = f"{model} is in use by another surgery; wait for it to end, then try again"
    for arguments in (
        ("apply", model, operated.second, "--in-place"),
        ("apply", model, operated.second, "--out", tmp_path / "out"),
        ("undo", model),
        ("undo", model, "--all"),
        ("verify", model),
    ):
        refused(*arguments, code=1, says=says)
    assert killer.resume(stopped).code == 0
    assert contents(model) == contents(operated.edited_twice)


def test_lock_of_a_killed_surgery_is_gone(
    killer: Killer, operated: Operated, tmp_path: Path
) -> None:
    model = copy_tree(operated.edited, tmp_path / "model")
    stopped = killer.run("in_place", model, operated.second, at=5, stop=True)
    os.kill(stopped.process, 9)
    killer.resume(stopped)
    undo(model)
    assert contents(model) == contents(operated.base)


def test_other_names_of_a_shard_keep_their_bytes(operated: Operated, tmp_path: Path) -> None:
    source = copy_tree(operated.base, tmp_path / "source")
    base = contents(source)
    copy = apply_to_copy(source, [load_edit(operated.first)], tmp_path / "copy")
    assert len(copy.shared_files) == 1
    shared = copy.directory / copy.shared_files[0]
    assert shared.samefile(source / shared.name)
    edited = contents(copy.directory)

    apply_in_place(copy.directory, [load_edit(operated.second)])
    assert weights(copy.directory) == weights(operated.edited_twice)
    assert contents(source) == base
    undo(copy.directory)
    assert contents(copy.directory) == edited
    undo(copy.directory)
    assert contents(copy.directory) == base
    assert contents(source) == base

    apply_in_place(source, [load_edit(operated.first)])
    assert contents(copy.directory) == base


@pytest.mark.parametrize("number", [0, 2])
def test_shard_that_is_a_symbolic_link(
    operated: Operated, refused: Refused, tmp_path: Path, number: int
) -> None:
    model = copy_tree(operated.base, tmp_path / "model")
    shard = sorted(model.glob("*.safetensors"))[number]
    blob = shard.rename(tmp_path / "blob")
    shard.symlink_to(blob)
    says = f"{shard} is a symbolic link"
    refused("apply", model, operated.first, "--in-place", code=1, says=says)


@pytest.mark.parametrize("verb", ["apply", "undo"])
def test_write_protected_shard(
    operated: Operated, refused: Refused, tmp_path: Path, verb: str
) -> None:
    model = copy_tree(operated.base if verb == "apply" else operated.edited, tmp_path / "model")
    shard = sorted(model.glob("*.safetensors"))[2]
    shard.chmod(0o444)
    rest = (operated.first, "--in-place") if verb == "apply" else ()
    refused(verb, model, *rest, code=1, says=f"{shard} is write-protected; give write permission")


def change_byte(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def change_journal(model: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = model / JOURNAL
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_edited_row(model: Path) -> None:
    entry = json.loads((model / JOURNAL).read_text())["entries"][-1]
    tensor = open_checkpoint(model).tensors[entry["tensor"]]
    change_byte(model / tensor.file, tensor.start + entry["numbers"][0] * entry["columns"] * 2)


def last_shard(model: Path) -> Path:
    return sorted(model.glob("*.safetensors"))[-1]


NO_MATCH = "its hash does not match"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "first byte of the rows": (
        lambda model: change_byte(model / ROWS, 0),
        "do not match their hash",
    ),
    "last byte of the rows": (
        lambda model: change_byte(model / ROWS, -1),
        "do not match their hash",
    ),
    "rows cut": (lambda model: os.truncate(model / ROWS, 500), "do not match their hash"),
    "rows gone": (lambda model: (model / ROWS).unlink(), "before.bin is missing"),
    "journal gone": (lambda model: (model / JOURNAL).unlink(), "journal.json is missing"),
    "journal cut": (lambda model: os.truncate(model / JOURNAL, 500), "not valid JSON"),
    "a brace of the journal": (lambda model: change_byte(model / JOURNAL, 0), "not valid JSON"),
    "an entry gone": (lambda m: change_journal(m, lambda c: c["entries"].pop()), NO_MATCH),
    "all entries gone": (lambda m: change_journal(m, lambda c: c["entries"].clear()), NO_MATCH),
    "hash gone": (lambda m: change_journal(m, lambda c: c.pop("sha256")), NO_MATCH),
    "a row gone": (
        lambda m: change_journal(m, lambda c: c["entries"][0]["numbers"].pop()),
        NO_MATCH,
    ),
    "another place": (
        lambda m: change_journal(m, lambda c: c["entries"][0].update(place=64)),
        NO_MATCH,
    ),
    "shard gone": (lambda model: last_shard(model).unlink(), "is missing"),
    "shard cut": (lambda model: os.truncate(last_shard(model), 5), "too short for safetensors"),
    "length of a header": (lambda model: change_byte(last_shard(model), 7), "the header claims"),
    "a header": (lambda model: change_byte(last_shard(model), 12), "belongs to another file"),
    "an edited row": (change_edited_row, "something else changed rows"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_undo_of_what_was_damaged_changes_nothing(
    operated: Operated, refused: Refused, tmp_path: Path, damage: str
) -> None:
    model = copy_tree(operated.edited, tmp_path / "model")
    change, says = DAMAGES[damage]
    change(model)
    code = 4 if damage == "an edited row" else 1
    refused("undo", model, code=code, says=says)


def test_lost_journal_is_named(operated: Operated, refused: Refused, tmp_path: Path) -> None:
    model = copy_tree(operated.edited, tmp_path / "model")
    shutil.rmtree(model / ".surgery")
    for arguments, code in (
        (("undo", model), 1),
        (("apply", model, operated.second, "--in-place"), 1),
        (("apply", model, operated.second, "--out", tmp_path / "out"), 1),
        (("verify", model), 1),
    ):
        refused(*arguments, code=code, says="journal 0001")


def test_manifest_with_other_line_ends_gets_its_bytes_back(
    operated: Operated, tmp_path: Path
) -> None:
    model = copy_tree(operated.edited, tmp_path / "model")
    manifest = model / "surgery.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"\n", b"\r\n"))
    before = contents(model)
    apply_in_place(model, [load_edit(operated.second)])
    undo(model)
    assert contents(model) == before
