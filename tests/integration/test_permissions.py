"""Models and files that may not be read, or not be written to: one line, and nothing changes."""

import os
import tempfile
from functools import partial
from pathlib import Path

import pytest

from command_line import contents, surgery_commands, written
from killing import copy_tree
from modelsurgery import load_edit, open_checkpoint
from modelsurgery.apply.in_place import apply_in_place
from modelsurgery.apply.undoing import undo
from modelsurgery.errors import StorageError
from modelsurgery.model.loading import load_model
from operated import Operated, make_operated, weight_files
from rights import bound_by_permissions

NOBODY = 65534


@pytest.fixture(scope="module", params=["safetensors", "gguf"])
def operated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Operated:
    return make_operated(tmp_path_factory.mktemp("operated"), request.param)


def refused(*arguments: object) -> str:
    """The one line of a command that permissions bind."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = surgery_commands().start(
            *arguments, stdout=out, stderr=err, before="import rights; rights.give_up()"
        )
        assert started.wait() != 0
        assert written(out) == ""
        line = written(err)
        assert line.count("\n") == 1
        return line


@pytest.mark.parametrize("which", ["file", "directory"])
def test_model_that_may_not_be_read(operated: Operated, which: str, tmp_path: Path) -> None:
    directory = copy_tree(operated.edited, tmp_path / "model")
    model, file = operated.model(directory), weight_files(directory)[0]
    closed = file if which == "file" else directory
    closed.chmod(0o000)
    try:
        says = f"{file}: no permission to read it" if which == "file" else f"{directory}"
        for arguments in (
            ("plan", model),
            ("apply", model, operated.second, "--in-place"),
            ("apply", model, operated.second, "--out", operated.destination(tmp_path / "out")),
            ("diff", model, model),
        ):
            line = refused(*arguments)
            assert says in line
            assert "ermission" in line
            assert "Errno" not in line
        with bound_by_permissions(), pytest.raises(StorageError, match="no permission to read"):
            open_checkpoint(model)
        if which == "file":
            shards = [path for path in weight_files(directory) if path != file]
            assert all(path.stat().st_mode & 0o400 for path in shards)
            for path in shards:
                path.chmod(0o000)
            with bound_by_permissions(), pytest.raises(StorageError, match="no permission to read"):
                undo(model)
    finally:
        closed.chmod(0o755)
        for path in weight_files(directory):
            path.chmod(0o644)
    assert contents(directory) == contents(operated.edited)


def test_edit_and_unnamed_model_that_may_not_be_read(tmp_path: Path) -> None:
    file = tmp_path / "blob"
    file.write_bytes(b"GGUF")
    file.chmod(0o000)
    for read in (open_checkpoint, load_edit, load_model, undo):
        with bound_by_permissions(), pytest.raises(StorageError, match="blob: no permission to r"):
            read(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("verb", ["apply", "undo"])
def test_file_of_another_user(operated: Operated, verb: str, tmp_path: Path) -> None:
    """In a directory that may be written to: it would be renamed, and could not be patched."""
    directory = copy_tree(operated.base if verb == "apply" else operated.edited, tmp_path / "model")
    before, model = contents(directory), operated.model(directory)
    for path in weight_files(directory):
        path.chmod(0o644)
        os.chown(path, NOBODY, NOBODY)
    first = load_edit(operated.first)
    act = partial(apply_in_place, model, [first]) if verb == "apply" else partial(undo, model)
    with bound_by_permissions(), pytest.raises(StorageError, match="no permission to write"):
        act()
    assert contents(directory) == before


def test_what_else_may_not_be_read_is_named_without_a_number(tmp_path: Path) -> None:
    recipe = tmp_path / "texts.jsonl"
    recipe.write_text("{}")
    tmp_path.chmod(0o000)
    try:
        line = refused("run", "--model", "demo", "--texts", recipe, "--plan")
    finally:
        tmp_path.chmod(0o755)
    assert str(tmp_path) in line
    assert "Errno" not in line
