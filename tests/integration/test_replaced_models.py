"""A model that was replaced after a surgery on it: its records must not be used on another."""

import shutil
import struct
from pathlib import Path

import pytest

from command_line import Refused, Surgery, contents
from killing import Killer, copy_tree
from modelsurgery import apply_to_copy, load_edit, open_checkpoint, save_edit, undo
from modelsurgery.apply.in_place import apply_in_place
from modelsurgery.apply.journal import load_journal
from modelsurgery.checkpoint.place import IN_SURGERY_SUFFIX
from modelsurgery.checkpoint.rows import Weights
from modelsurgery.errors import VerificationError
from operated import Operated, make_operated, weight_files


@pytest.fixture(scope="module", params=["safetensors", "gguf"])
def operated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Operated:
    return make_operated(tmp_path_factory.mktemp("operated"), request.param)


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


def change_metadata(operated: Operated, path: Path) -> None:
    """Change a value in a header, of the same size, as gguf-set-metadata does."""
    content = path.read_bytes()
    if operated.name:
        key = b"llama.feed_forward_length"
        place = content.index(key) + len(key) + 4
        (value,) = struct.unpack_from("<I", content, place)
        changed = content[:place] + struct.pack("<I", value * 2) + content[place + 4 :]
    else:
        changed = content.replace(b'"format":"pt"', b'"format":"np"', 1)
    assert len(changed) == len(content)
    assert changed != content
    path.write_bytes(changed)


def metadata_file(operated: Operated, directory: Path) -> Path:
    """A file that the second edit changes and that has metadata."""
    stored = load_journal(operated.records(operated.edited_twice) / "0002")
    names = [directory / name.replace("model-", "tiny-") if operated.name else directory / name
             for name in sorted(stored.journal.files)]  # fmt: skip
    return names[0]


def test_metadata_may_change(operated: Operated, surgery: Surgery, tmp_path: Path) -> None:
    directory = copy_tree(operated.edited_twice, tmp_path / "model")
    path, model = metadata_file(operated, directory), operated.model(directory)
    change_metadata(operated, path)
    verified = surgery("verify", model)
    assert verified.code == 4
    assert f"the header in {path.name} has other bytes" in verified.stderr
    expected = copy_tree(operated.base, tmp_path / "expected")
    change_metadata(operated, expected / path.name)
    undo(model, everything=True)
    assert contents(directory) == contents(expected)


def test_a_tensor_that_is_not_there(operated: Operated, refused: Refused, tmp_path: Path) -> None:
    directory = copy_tree(operated.edited, tmp_path / "model")
    stored = load_journal(operated.records(directory) / "0001")
    tensor = stored.journal.entries[0].tensor.encode()
    for path in weight_files(directory):
        path.write_bytes(path.read_bytes().replace(tensor, tensor.replace(b"gate", b"gata")))
    says = f"delete {records(operated, directory)}"
    refused("undo", operated.model(directory), code=1, says=says)


def replaced(operated: Operated, directory: Path, source: Path, files: slice) -> Path:
    """A model that was edited in place, and some of its files replaced by those of another."""
    copy_tree(operated.edited, directory)
    stored = load_journal(operated.records(directory) / "0001")
    for name in sorted(stored.journal.files)[files]:
        name = name.replace("model-", "tiny-") if operated.name else name
        shutil.copyfile(source / name, directory / name)
    return directory


def test_undo_of_the_original_removes_the_record(
    operated: Operated, surgery: Surgery, tmp_path: Path
) -> None:
    for options in ((), ("--all",)):
        directory = replaced(operated, tmp_path / f"model{options}", operated.base, slice(None))
        done = surgery("undo", operated.model(directory), *options)
        assert done.code == 0
        assert "the model has the original rows already" in done.stdout
        assert contents(directory) == contents(operated.base)


def test_undo_puts_back_the_part_that_is_edited(operated: Operated, tmp_path: Path) -> None:
    directory = replaced(operated, tmp_path / "model", operated.base, slice(1))
    assert undo(operated.model(directory)).records_removed == 0
    assert contents(directory) == contents(operated.base)


def test_an_edit_in_place_of_the_original_starts_new_records(
    operated: Operated, tmp_path: Path
) -> None:
    directory = replaced(operated, tmp_path / "model", operated.base, slice(None))
    done = apply_in_place(operated.model(directory), [load_edit(operated.first)])
    assert done.records_removed == 1
    assert done.journal.name == "0001"
    assert contents(directory) == contents(operated.edited)


@pytest.mark.parametrize("part", [slice(1), slice(None)], ids=["a part of it", "all of it"])
def test_no_journal_is_put_on_one_of_other_rows(
    operated: Operated, other: Path, refused: Refused, tmp_path: Path, part: slice
) -> None:
    model = operated.model(replaced(operated, tmp_path / "model", other, part))
    says = f"delete {records(operated, tmp_path / 'model')}"
    refused("apply", model, operated.second, "--in-place", code=4, says=says)
    with pytest.raises(VerificationError, match="something else changed rows of"):
        apply_to_copy(model, [load_edit(operated.second)], operated.destination(tmp_path / "out"))
    refused("undo", model, code=4, says=says)


def test_a_part_that_is_the_original_is_undone_first(
    operated: Operated, refused: Refused, tmp_path: Path
) -> None:
    model = operated.model(replaced(operated, tmp_path / "model", operated.base, slice(1)))
    out = tmp_path / ("out.gguf" if operated.name else "out")
    says = f"run `surgery undo {model}` first"
    refused("apply", model, operated.second, "--in-place", code=4, says=says)
    refused("apply", model, operated.second, "--out", out, code=4, says=says)


@pytest.mark.parametrize("verb", ["undo", "apply"])
def test_a_file_beside_the_hidden_one(
    killer: Killer, operated: Operated, other: Path, refused: Refused, tmp_path: Path, verb: str
) -> None:
    directory = killed_halfway(killer, operated, tmp_path / "model")
    hidden = sorted(directory.glob(f"*{IN_SURGERY_SUFFIX}"))[0]
    path = hidden.with_name(hidden.name.removesuffix(IN_SURGERY_SUFFIX))
    shutil.copyfile(other / path.name, path)
    model = operated.model(directory)
    rest = (operated.first, "--in-place") if verb == "apply" else ()
    says = f"{hidden.name} is the one that a surgery was writing to"
    message = refused(verb, model, *rest, code=1, says=says)
    assert f"delete or move {path.name} if you put it there afterwards" in message
    path.unlink()
    undo(model)
    assert contents(directory) == contents(operated.base)


def test_an_edit_of_rows_that_another_one_edited(
    operated: Operated, refused: Refused, tmp_path: Path
) -> None:
    """Made from the original, as the first one was; the refusal names the surgery."""
    directory = copy_tree(operated.edited, tmp_path / "model")
    model, edit = operated.model(directory), tmp_path / "edit.safetensors"
    save_edit(-load_edit(operated.first).scaled(0.5), edit)
    says = "were edited already, by surgery 0001; undo it with"
    refused("apply", model, edit, "--in-place", code=4, says=says)
    out = tmp_path / ("out.gguf" if operated.name else "out")
    refused("apply", model, edit, "--out", out, code=4, says=says)
    undo(model)
    together = [load_edit(operated.first), load_edit(edit)]
    assert apply_in_place(model, together).coverage.rows_edited == together[0].row_count
