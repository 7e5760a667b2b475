"""What a surgery must not touch, or cannot trust: it is refused with one line and nothing changes.

Locks, hard links, symbolic links, write protection, and journals that are damaged.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from command_line import Refused, contents
from killing import Killer, copy_tree
from modelsurgery import apply_to_copy, load_edit, open_checkpoint
from modelsurgery.apply.in_place import apply_in_place
from modelsurgery.apply.undoing import undo
from modelsurgery.apply.verification import verify
from modelsurgery.checkpoint.rows import ROW_DTYPES
from operated import Operated, make_operated, weight_files, weights


@pytest.fixture(scope="module", params=["safetensors", "gguf"])
def operated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Operated:
    return make_operated(tmp_path_factory.mktemp("operated"), request.param)


def test_two_surgeries_at_once(
    killer: Killer, operated: Operated, refused: Refused, tmp_path: Path
) -> None:
    rehearsal = operated.model(copy_tree(operated.edited, tmp_path / "rehearsal"))
    steps = killer.run("in_place", rehearsal, operated.second).steps
    directory = copy_tree(operated.edited, tmp_path / "model")
    model, out = operated.model(directory), tmp_path / ("out.gguf" if operated.name else "out")
    stopped = killer.run(
        "in_place", model, operated.second, at=steps.index("rename") + 1, stop=True
    )
    assert stopped.code < 0
    says = f"{directory} is in use by another surgery; wait for it to end, then try again"
    for arguments in (
        ("apply", model, operated.second, "--in-place"),
        ("apply", model, operated.second, "--out", out),
        ("undo", model),
        ("undo", model, "--all"),
        ("verify", model),
    ):
        refused(*arguments, code=1, says=says)
    assert killer.resume(stopped).code == 0
    assert contents(directory) == contents(operated.edited_twice)


def test_lock_of_a_killed_surgery_is_gone(
    killer: Killer, operated: Operated, tmp_path: Path
) -> None:
    directory = copy_tree(operated.edited, tmp_path / "model")
    stopped = killer.run("in_place", operated.model(directory), operated.second, at=5, stop=True)
    os.kill(stopped.process, 9)
    killer.resume(stopped)
    undo(operated.model(directory))
    assert contents(directory) == contents(operated.base)


def test_other_names_of_a_shard_keep_their_bytes(operated: Operated, tmp_path: Path) -> None:
    source, copies = copy_tree(operated.base, tmp_path / "source"), tmp_path / "copy"
    base, target = contents(source), operated.destination(copies)
    copy = apply_to_copy(operated.model(source), [load_edit(operated.first)], target).directory
    shared = [one for one in weight_files(source) if one.samefile(copies / one.name)]
    assert len(shared) == len(weights(source)) - 2
    edited = contents(copies)

    apply_in_place(copy, [load_edit(operated.second)])
    assert weights(copies) == weights(operated.edited_twice)
    assert contents(source) == base
    undo(copy)
    assert contents(copies) == edited
    undo(copy)
    assert contents(copies) == base
    assert contents(source) == base

    apply_in_place(operated.model(source), [load_edit(operated.first)])
    assert contents(copies) == base


def changed_shards(operated: Operated) -> list[str]:
    """Names of the files that the first edit changes."""
    before, after = weights(operated.base), weights(operated.edited)
    return [name for name in before if before[name] != after[name]]


@pytest.mark.parametrize("which", ["another shard", "an edited shard"])
def test_shard_that_is_a_symbolic_link(
    operated: Operated, refused: Refused, tmp_path: Path, which: str
) -> None:
    directory = copy_tree(operated.base, tmp_path / "model")
    edited = changed_shards(operated)
    others = [name for name in weights(operated.base) if name not in edited]
    shard = directory / (edited if which == "an edited shard" else others)[-1]
    blob = shard.rename(tmp_path / "blob")
    shard.symlink_to(blob)
    says = f"{shard} is a symbolic link"
    model = operated.model(directory)
    refused("apply", model, operated.first, "--in-place", code=1, says=says)


@pytest.mark.parametrize("verb", ["apply", "undo"])
def test_write_protected_shard(
    operated: Operated, refused: Refused, tmp_path: Path, verb: str
) -> None:
    directory = copy_tree(operated.base if verb == "apply" else operated.edited, tmp_path / "model")
    shard = directory / changed_shards(operated)[-1]
    shard.chmod(0o444)
    rest = (operated.first, "--in-place") if verb == "apply" else ()
    says = f"{shard} is write-protected; give write permission"
    message = refused(verb, operated.model(directory), *rest, code=1, says=says)
    assert ("--out" in message) == (verb == "apply")


@dataclass(frozen=True)
class Edited:
    """A copy of the edited model, to be damaged."""

    operated: Operated
    directory: Path

    @property
    def rows(self) -> Path:
        return self.operated.records(self.directory) / "0001/before.bin"

    @property
    def journal(self) -> Path:
        return self.operated.records(self.directory) / "0001/journal.json"

    @property
    def last_shard(self) -> Path:
        return self.directory / changed_shards(self.operated)[-1]

    @property
    def model(self) -> Path:
        return self.operated.model(self.directory)


def change_byte(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def change_journal(model: Edited, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(model.journal.read_text())
    change(content)
    model.journal.write_text(json.dumps(content))


def change_edited_row(model: Edited) -> None:
    entry = json.loads(model.journal.read_text())["entries"][-1]
    checkpoint = open_checkpoint(model.model)
    tensor = checkpoint.tensors[entry["tensor"]]
    before = entry["numbers"][0] * entry["columns"] * ROW_DTYPES[entry["dtype"]].itemsize
    change_byte(checkpoint.place.path(tensor.file), tensor.start + before)


NO_MATCH = "its hash does not match"
DAMAGES: dict[str, tuple[Callable[[Edited], object], str]] = {
    "first byte of the rows": (
        lambda model: change_byte(model.rows, 0),
        "do not match their hash",
    ),
    "last byte of the rows": (
        lambda model: change_byte(model.rows, -1),
        "do not match their hash",
    ),
    "rows cut": (lambda model: os.truncate(model.rows, 100), "do not match their hash"),
    "rows gone": (lambda model: model.rows.unlink(), "before.bin is missing"),
    "journal gone": (lambda model: model.journal.unlink(), "journal.json is missing"),
    "journal cut": (lambda model: os.truncate(model.journal, 500), "not valid JSON"),
    "a brace of the journal": (lambda model: change_byte(model.journal, 0), "not valid JSON"),
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
    "shard gone": (lambda model: model.last_shard.unlink(), "is missing"),
    "shard cut": (lambda model: os.truncate(model.last_shard, 5), "too short"),
    "length of a header": (lambda model: change_byte(model.last_shard, 7), "the header claims"),
    "a header": (lambda model: change_byte(model.last_shard, 12), "malformed"),
    "an edited row": (change_edited_row, "something else changed rows"),
}


# The same bytes mean other things there.
OF_GGUF = {"length of a header": "version", "a header": "claims"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_undo_of_what_was_damaged_changes_nothing(
    operated: Operated, refused: Refused, tmp_path: Path, damage: str
) -> None:
    model = Edited(operated, copy_tree(operated.edited, tmp_path / "model"))
    change, says = DAMAGES[damage]
    change(model)
    code = 4 if damage == "an edited row" else 1
    if operated.name:
        says = OF_GGUF.get(damage, says)
    refused("undo", model.model, code=code, says=says)


def test_verify_names_saved_rows_that_are_damaged(operated: Operated, tmp_path: Path) -> None:
    model = Edited(operated, copy_tree(operated.edited, tmp_path / "model"))
    assert verify(model.model).wrong == ()
    change_byte(model.rows, -1)
    (wrong,) = verify(model.model).wrong
    assert wrong.startswith("undo would fail: ")
    assert str(model.rows) in wrong


def test_lost_journal_is_named(operated: Operated, refused: Refused, tmp_path: Path) -> None:
    directory = copy_tree(operated.edited, tmp_path / "model")
    model, out = operated.model(directory), tmp_path / ("out.gguf" if operated.name else "out")
    shutil.rmtree(operated.records(directory))
    for arguments, code in (
        (("undo", model), 1),
        (("apply", model, operated.second, "--in-place"), 1),
        (("apply", model, operated.second, "--out", out), 1),
        (("verify", model), 1),
    ):
        refused(*arguments, code=code, says="journal 0001")


def test_manifest_with_other_line_ends_gets_its_bytes_back(
    operated: Operated, tmp_path: Path
) -> None:
    directory = copy_tree(operated.edited, tmp_path / "model")
    manifest = operated.records(directory).with_name("surgery.json")
    manifest.write_bytes(manifest.read_bytes().replace(b"\n", b"\r\n"))
    before = contents(directory)
    apply_in_place(operated.model(directory), [load_edit(operated.second)])
    undo(operated.model(directory))
    assert contents(directory) == before
