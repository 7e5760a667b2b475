"""A model that was replaced after a surgery on it: its records must not be used on another."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import Refused, contents
from killing import Killer, copy_tree, killing
from modelsurgery import open_checkpoint, undo
from modelsurgery.apply.journal import load_journal
from modelsurgery.checkpoint.place import IN_SURGERY_SUFFIX
from modelsurgery.checkpoint.rows import Weights
from operated import Operated, make_operated, weight_files


@pytest.fixture(scope="module", params=["safetensors", "gguf"])
def operated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Operated:
    return make_operated(tmp_path_factory.mktemp("operated"), request.param)


@pytest.fixture
def killer() -> Iterator[Killer]:
    with killing() as served:
        yield served


@pytest.fixture
def other(operated: Operated, tmp_path: Path) -> Path:
    """Another revision of the base: the same headers, other gate rows."""
    directory = copy_tree(operated.base, tmp_path / "other")
    for path in weight_files(directory):
        path.write_bytes(path.read_bytes())  # not the file of another name
    change_rows(operated, directory)
    return directory


def change_rows(operated: Operated, directory: Path) -> None:
    """Change a byte in every row that the first edit changes."""
    stored = load_journal(operated.records(operated.edited) / "0001")
    with Weights(open_checkpoint(operated.model(directory)), writable=True) as weights:
        for entry in stored.journal.entries:
            rows = weights.read(entry.view, entry.row_numbers)
            rows.view("u1").reshape(len(rows), -1)[:, 0] ^= 1
            weights.write(entry.view, entry.row_numbers, rows)


def records(operated: Operated, directory: Path) -> Path:
    """What a message says to delete, first."""
    kept = operated.records(directory)
    return kept.parent if operated.name else kept


def killed_halfway(killer: Killer, operated: Operated, directory: Path) -> Path:
    """A copy of the base, whose first edit died with half of a row written."""
    rehearsal = operated.model(copy_tree(operated.base, directory.with_name("rehearsal")))
    steps = killer.run("in_place", rehearsal, operated.first).steps
    at = steps.index("half a pwrite") + 1
    copy_tree(operated.base, directory)
    assert killer.run("in_place", operated.model(directory), operated.first, at=at).code == -9
    return directory


def replace_hidden(directory: Path, source: Path) -> None:
    """Delete the hidden files and put those of another model there."""
    hidden = sorted(directory.glob(f"*{IN_SURGERY_SUFFIX}"))
    assert hidden
    for path in hidden:
        path.unlink()
        name = path.name.removesuffix(IN_SURGERY_SUFFIX)
        shutil.copyfile(source / name, directory / name)


@pytest.mark.parametrize("verb", ["undo", "undo --all", "apply"])
def test_another_model_after_an_interrupted_edit_keeps_its_rows(
    killer: Killer, operated: Operated, other: Path, refused: Refused, tmp_path: Path, verb: str
) -> None:
    directory = killed_halfway(killer, operated, tmp_path / "model")
    replace_hidden(directory, other)
    model = operated.model(directory)
    rest = {"undo": (), "undo --all": ("--all",), "apply": (operated.first, "--in-place")}[verb]
    says = f"delete {records(operated, directory)}"
    refused(verb.split()[0], model, *rest, code=4, says=says)


def test_one_file_of_several_that_was_replaced(
    killer: Killer, operated: Operated, other: Path, refused: Refused, tmp_path: Path
) -> None:
    """The half-written one is still hidden."""
    directory = killed_halfway(killer, operated, tmp_path / "model")
    hidden = sorted(directory.glob(f"*{IN_SURGERY_SUFFIX}"))[-1]
    hidden.unlink()
    name = hidden.name.removesuffix(IN_SURGERY_SUFFIX)
    shutil.copyfile(other / name, directory / name)
    refused("undo", operated.model(directory), code=4, says="neither the old nor the new rows")


def test_the_original_after_an_interrupted_edit(
    killer: Killer, operated: Operated, tmp_path: Path
) -> None:
    directory = killed_halfway(killer, operated, tmp_path / "model")
    replace_hidden(directory, operated.base)
    undo(operated.model(directory))
    assert contents(directory) == contents(operated.base)


def test_a_half_written_file_under_its_own_name_is_told_its_name(
    killer: Killer, operated: Operated, refused: Refused, tmp_path: Path
) -> None:
    directory = killed_halfway(killer, operated, tmp_path / "model")
    hidden = sorted(directory.glob(f"*{IN_SURGERY_SUFFIX}"))
    for path in hidden:
        path.rename(path.with_name(path.name.removesuffix(IN_SURGERY_SUFFIX)))
    model = operated.model(directory)
    refused("undo", model, code=4, says=f"a renamed {hidden[0].name} needs that name again")
    for path in hidden:
        path.with_name(path.name.removesuffix(IN_SURGERY_SUFFIX)).rename(path)
    undo(model)
    assert contents(directory) == contents(operated.base)
