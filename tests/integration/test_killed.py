"""Killed at any step, a surgery leaves the old model, the new one, or one that nothing can load.

Undo then gives back every byte, and the same command again completes.
"""

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers

from command_line import contents
from killing import Killer, copy_tree
from modelsurgery import Edit, apply_to_copy, load_edit, open_checkpoint
from modelsurgery.apply.in_place import apply_in_place
from modelsurgery.apply.undoing import undo
from modelsurgery.errors import (
    CheckpointError,
    EditMismatchError,
    JournalError,
    OutputExistsError,
)
from operated import Operated, link_shards, make_operated, weight_files, weights

INDEX = "model.safetensors.index.json"
FEWEST_STEPS = 20


@pytest.fixture(autouse=True)
def without_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing takes most of the time; it guards against a power cut, not against a kill."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module", params=["safetensors", "gguf"])
def operated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Operated:
    return make_operated(tmp_path_factory.mktemp("operated"), request.param)


def deaths(
    killer: Killer, start: Path, place: Path, verb: str, *arguments: object
) -> Iterator[tuple[str, Path]]:
    """Run a surgery on copies of `start`, killed at every step; what step it was, and the copy.

    Relative arguments are paths in the copy.
    """

    def given(directory: Path) -> list[Path]:
        return [directory / str(one) for one in arguments]

    whole = killer.run(verb, *given(copy_tree(start, place / "whole")))
    assert whole.code == 0, whole.error
    assert len(whole.steps) >= FEWEST_STEPS
    for number, name in enumerate(whole.steps, 1):
        directory = copy_tree(start, place / f"{number}")
        assert killer.run(verb, *given(directory), at=number).code == -9
        yield f"killed at step {number} of {len(whole.steps)}, {name}", directory
        shutil.rmtree(directory)


class Loading:
    """Checks that what can be loaded is one of the models that are expected, and no mixture."""

    def __init__(self, operated: Operated, *expected: dict[str, bytes]) -> None:
        self._operated, self._expected = operated, expected
        self._seen: dict[tuple[str, ...], bool] = {}

    def check(self, directory: Path, where: str) -> None:
        """Check the files, and for every set of their names once what transformers says of it."""
        whole = all((directory / name).is_file() for name in weights(self._operated.base))
        model = self._operated.model(directory)
        if whole:
            assert weights(directory) in self._expected, where
            open_checkpoint(model)
        else:
            with pytest.raises(CheckpointError, match="was interrupted"):
                open_checkpoint(model)
        kinds = ("*.safetensors*", "*.gguf", "*.gguf.in-surgery")
        names = tuple(sorted(path.name for kind in kinds for path in directory.glob(kind)))
        if names not in self._seen:
            self._seen[names] = whole
            if not self._operated.name:  # transformers has no use for a part of a GGUF set
                self._load(directory, whole=whole)

    def _load(self, model: Path, *, whole: bool) -> None:
        if whole:
            transformers.AutoModelForCausalLM.from_pretrained(model)
            return
        with pytest.raises(OSError, match="safetensors"):
            transformers.AutoModelForCausalLM.from_pretrained(model)

    def check_seen(self) -> None:
        """Both kinds of states were met: whole models, and at least one that does not load."""
        assert set(self._seen.values()) == {True, False}


def undo_if_begun(model: Path) -> None:
    """Undo; the surgery may have died before there was anything to undo."""
    try:
        undo(model)
    except JournalError as error:
        if "no surgery to undo" not in str(error):
            raise


def apply_unless_done(
    operated: Operated, directory: Path, edit: Edit, done: dict[str, bytes]
) -> None:
    """Apply in place; an edit that died after its last change is refused, as any second one is."""
    model = operated.model(directory)
    if weights(directory) == done:
        with pytest.raises(EditMismatchError, match="already"):
            apply_in_place(model, [edit])
    else:
        apply_in_place(model, [edit])


def test_copy(killer: Killer, operated: Operated, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    copy_tree(operated.base, start / "model")
    base = contents(operated.base)
    edit = load_edit(operated.first)
    whole = operated.destination(tmp_path / "whole copy")
    made = apply_to_copy(operated.model(operated.base), [edit], whole)
    assert len(made.shared_files) == len(weights(operated.base)) - 2
    expected = contents(tmp_path / "whole copy")
    source, target = operated.model(Path("model")), operated.destination(Path("out"))
    for where, place in deaths(killer, start, tmp_path, "copy", source, operated.first, target):
        out = place / "out"
        model, copy = operated.model(place / "model"), operated.model(out)
        assert contents(place / "model") == base, where
        # What was staged is left; its name begins with a dot, so that no list of models has it.
        staged = operated.staged(out)
        assert len(staged) <= 1, where
        assert {one.name for one in place.iterdir()} <= {
            "model", "out", *(one.name for one in staged)
        }, where  # fmt: skip
        if copy.exists():
            for empty in operated.staged(out):
                empty.rmdir()
            assert contents(out) == expected, where
            with pytest.raises(OutputExistsError):
                apply_to_copy(model, [edit], operated.destination(out))
        else:
            apply_to_copy(model, [edit], operated.destination(out))
            assert contents(out) == expected, where
        undo(copy)
        assert contents(out) == base, where
        assert contents(place / "model") == base, where


def test_edit_in_place(killer: Killer, operated: Operated, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    copy_tree(operated.base, start / "model")
    link_shards(start / "model", start / "other", 2)  # so that one is copied, one written to
    base, other = contents(operated.base), contents(start / "other")
    loading = Loading(operated, weights(operated.base), weights(operated.edited))
    edit = load_edit(operated.first)
    for where, place in deaths(
        killer, start, tmp_path, "in_place", operated.model(Path("model")), operated.first
    ):
        loading.check(place / "model", where)
        again = copy_tree(place, tmp_path / "again")

        undo_if_begun(operated.model(place / "model"))
        assert contents(place / "model") == base, where
        assert contents(place / "other") == other, where

        apply_unless_done(operated, again / "model", edit, weights(operated.edited))
        assert contents(again / "model") == contents(operated.edited), where
        undo(operated.model(again / "model"))
        assert contents(again / "model") == base, where
        assert contents(again / "other") == other, where
        shutil.rmtree(again)
    loading.check_seen()


def test_second_edit_in_place(killer: Killer, operated: Operated, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    copy_tree(operated.edited, start / "model")
    base, once, twice = map(contents, (operated.base, operated.edited, operated.edited_twice))
    loading = Loading(operated, weights(operated.edited), weights(operated.edited_twice))
    edit = load_edit(operated.second)
    for where, place in deaths(
        killer, start, tmp_path, "in_place", operated.model(Path("model")), operated.second
    ):
        model = place / "model"
        loading.check(model, where)
        again = copy_tree(model, tmp_path / "again")
        last = copy_tree(model, tmp_path / "last")

        begun = (operated.records(model) / "0002").is_dir()
        undo(operated.model(model))
        assert contents(model) == (once if begun else base), where
        undo(operated.model(again), everything=True)
        assert contents(again) == base, where
        apply_unless_done(operated, last, edit, weights(operated.edited_twice))
        assert contents(last) == twice, where
        undo(operated.model(last))
        assert contents(last) == once, where
        for directory in (again, last):
            shutil.rmtree(directory)
    loading.check_seen()


def test_undo(killer: Killer, operated: Operated, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    copy_tree(operated.edited, start / "model")
    link_shards(start / "model", start / "other", 1)
    base, other = contents(operated.base), contents(start / "other")
    loading = Loading(operated, weights(operated.base), weights(operated.edited))
    edit = load_edit(operated.first)
    for where, place in deaths(killer, start, tmp_path, "undo", operated.model(Path("model"))):
        loading.check(place / "model", where)
        again = copy_tree(place, tmp_path / "again")

        undo_if_begun(operated.model(place / "model"))
        assert contents(place / "model") == base, where
        assert contents(place / "other") == other, where

        apply_unless_done(operated, again / "model", edit, weights(operated.edited))
        undo(operated.model(again / "model"))
        assert contents(again / "model") == base, where
        assert contents(again / "other") == other, where
        shutil.rmtree(again)
    loading.check_seen()


def test_undo_of_two_edits(killer: Killer, operated: Operated, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    copy_tree(operated.edited_twice, start / "model")
    base = contents(operated.base)
    models = [weights(one) for one in (operated.base, operated.edited, operated.edited_twice)]
    loading = Loading(operated, *models)
    for where, place in deaths(killer, start, tmp_path, "undo_all", operated.model(Path("model"))):
        loading.check(place / "model", where)
        undo(operated.model(place / "model"), everything=True)
        assert contents(place / "model") == base, where
    loading.check_seen()


def test_undo_of_an_edit_that_was_killed(
    killer: Killer, operated: Operated, tmp_path: Path
) -> None:
    start = tmp_path / "start"
    start.mkdir()
    whole = copy_tree(operated.edited, tmp_path / "edited")
    steps = killer.run("in_place", operated.model(whole), operated.second).steps
    copy_tree(operated.edited, start / "model")
    middle = [number for number, name in enumerate(steps, 1) if name == "half a pwrite"][4]
    begun = operated.model(start / "model")
    assert killer.run("in_place", begun, operated.second, at=middle).code == -9
    once, base = contents(operated.edited), contents(operated.base)
    for where, place in deaths(killer, start, tmp_path, "undo", operated.model(Path("model"))):
        complete = not (operated.records(place / "model") / "0002").is_dir()
        undo(operated.model(place / "model"))
        assert contents(place / "model") == (base if complete else once), where


def test_bulk_copies_are_steps_too(killer: Killer, operated: Operated, tmp_path: Path) -> None:
    """Shards are copied by the kernel where it can, and a kill in the middle leaves half of one."""
    source = copy_tree(operated.base, tmp_path / "model")
    model, out, torn = operated.model(source), tmp_path / "out", tmp_path / "torn"
    steps = killer.run("copy", model, operated.first, operated.destination(out)).steps
    in_kernel = "copy_file_range" if kernel_copies(tmp_path) else "write"
    half = steps.index(f"half a {in_kernel}") + 1
    edit = load_edit(operated.first)
    changed = {shard.name for shard in weight_files(out)
               if shard.stat().st_ino != (source / shard.name).stat().st_ino}  # fmt: skip
    target = operated.destination(torn)
    assert killer.run("copy", model, operated.first, target, at=half).code == -9
    (staged,) = operated.staged(torn)
    sizes = {one.name: one.stat().st_size for one in weight_files(staged)}
    whole = {one.name: one.stat().st_size for one in weight_files(source)}
    assert [name for name in changed & set(sizes) if 0 < sizes[name] < whole[name]]
    apply_to_copy(model, [edit], target)
    assert contents(torn) == contents(out)


def kernel_copies(directory: Path) -> bool:
    """Whether the kernel copies between files of this disk."""
    source, target = directory / "source", directory / "target"
    source.write_bytes(b"x")
    with source.open("rb") as old, target.open("wb") as new:
        try:
            return os.copy_file_range(old.fileno(), new.fileno(), 1) == 1
        except OSError:
            return False
        finally:
            source.unlink()
            target.unlink()


def test_every_step_is_flushed_before_the_next(
    killer: Killer, operated: Operated, tmp_path: Path
) -> None:
    """A power cut loses what was not flushed, so the order of flushes is the order of the steps."""
    model = operated.model(copy_tree(operated.base, tmp_path / "model"))
    made = killer.run("in_place", model, operated.first).steps
    hide, patch, unhide = ["rename", "fsync"], ["pwrite", "fsync"], ["rename", "fsync"]
    manifest = ["mkdir", "create", "write", "fsync", "chmod", "replace", "fsync", "unlink"]
    expected = [*hide, *patch, *manifest, *unhide]
    assert in_brief(made)[-len(expected) :] == expected
    undone = killer.run("undo", model).steps
    journal = ["rename", "fsync", "unlink", "rmdir"]
    assert in_brief(undone) == [*hide, *patch, "unlink", "fsync", *unhide, *journal]


def in_brief(steps: list[str]) -> list[str]:
    """Steps with repetitions as one."""
    whole = (name for name in steps if not name.startswith("half"))
    return [name for name, _ in itertools.groupby(whole)]
