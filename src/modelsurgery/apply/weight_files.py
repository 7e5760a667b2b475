"""The weight files of a model while a surgery writes to them.

They bear other names, so that nothing loads them half-written, and they are never the very bytes of
another model: a file with a second name elsewhere gets bytes of its own first.
"""

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from modelsurgery.apply.journal import StoredJournal
from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.place import Place, hidden_name
from modelsurgery.checkpoint.rows import Weights
from modelsurgery.errors import JournalError, StorageError
from modelsurgery.files.atomic import sync

PRIVATE_COPY_SUFFIX = ".private-copy"


@contextmanager
def hidden(checkpoint: Checkpoint, stored: StoredJournal) -> Iterator[Weights]:
    """Files of a journal open for patching, and under names that nothing loads meanwhile.

    They get their names back when the block ends well, and only then.
    """
    directory, place = checkpoint.directory, checkpoint.place
    names = list(stored.journal.files)
    for name in names:
        path = place.path(name)
        if path.exists():
            path.rename(hidden_name(path))
    sync(directory)
    tensors = {
        name: replace(one, file=hidden_name(Path(one.file)).name)
        for name, one in checkpoint.tensors.items()
        if one.file in names
    }
    with Weights(replace(checkpoint, tensors=tensors), writable=True) as weights:
        yield weights
    for name in names:
        hidden_name(place.path(name)).rename(place.path(name))
    sync(directory)


def present(path: Path) -> Path:
    """A file under its own name or hidden.

    Raises:
        JournalError: it is under neither, or under both.
    """
    hidden = hidden_name(path)
    here, there = os.path.lexists(path), os.path.lexists(hidden)
    if here and there:
        raise JournalError(
            f"{path} exists twice: {hidden.name} is the one that a surgery was writing to when it "
            f"was interrupted; delete or move {path.name} if you put it there afterwards, then "
            "run `surgery undo` again"
        )
    if not (here or there):
        raise JournalError(
            f"{path} is missing; expected it or {hidden.name}: fetch or restore the file, then try "
            "again"
        )
    return path if here else hidden


def privatise(place: Place, stored: StoredJournal) -> None:
    """Give every file to be written to bytes of its own, so that no other name of it changes."""
    for name in stored.journal.files:
        path = present(place.path(name))
        copy = _private_copy(place.path(name))
        if path.stat().st_nlink > 1:
            try:
                shutil.copy2(path, copy)
                sync(copy)
                copy.replace(path)
            except BaseException:
                copy.unlink(missing_ok=True)
                raise
            sync(place.directory)


def sweep_copies(place: Place) -> None:
    """Remove the unfinished private copy that a killed process left."""
    if place.is_gguf:
        copies = [_private_copy(place.path(name)) for name in place.gguf_names]
        found = [path for path in copies if path.exists()]
    else:
        found = sorted(place.directory.glob(f".*{PRIVATE_COPY_SUFFIX}"))
    for path in found:
        path.unlink()


def _private_copy(path: Path) -> Path:
    return path.with_name(f".{path.name}{PRIVATE_COPY_SUFFIX}")


def refuse_unwritable(paths: Iterable[Path], *, undoing: bool = False) -> None:
    """Raise StorageError for a symbolic link or a file without write permission, as root too.

    While `undoing` no edit is applied, so that there is no copy to write instead.
    """
    linked, protected = (
        ("put a copy of the file in its place", "")
        if undoing
        else ("write an edited copy with --out", " or write an edited copy with --out")
    )
    for path in paths:
        if path.is_symlink():
            raise StorageError(f"{path} is a symbolic link, possibly into a shared cache; {linked}")
        if not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
            raise StorageError(
                f"{path} is write-protected; give write permission with `chmod u+w`{protected}"
            )
        # What is written first tells of a disk that is read-only.
        is_read_only = os.statvfs(path).f_flag & os.ST_RDONLY
        if not is_read_only and not os.access(path, os.W_OK, effective_ids=True):
            raise StorageError(f"{path}: no permission to write to it; run as its owner{protected}")
