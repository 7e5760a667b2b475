"""Where an edited copy grows before it appears: a directory at once, GGUF after its records.

A GGUF file and its records are two names, so they cannot appear in one step. The records come
first and the (first) file last: without it there is no model, and records without a model are what
a killed process left.
"""

import errno
import glob
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from modelsurgery.checkpoint.place import Place, hidden_name
from modelsurgery.errors import OutputExistsError
from modelsurgery.files.atomic import refuse_existing, staged_directory, staged_for


@contextmanager
def staged_place(target: Place) -> Iterator[Place]:
    """Give a place to fill whose files appear at `target` when the block ends well.

    Raises:
        OutputExistsError: a model is there.
        StorageError: the disk is full or cannot be written.
    """
    if not target.is_gguf:
        with staged_directory(target.directory) as staged:
            yield Place(staged)
        return
    refuse_existing_gguf(target)
    if _is_abandoned(target):
        shutil.rmtree(target.records, ignore_errors=True)
        for name in target.gguf_names:
            target.path(name).unlink(missing_ok=True)
    with staged_for(target.model, partial(_put, target)) as staged:
        yield replace(target, directory=staged)


def refuse_existing_gguf(target: Place) -> None:
    """Raise OutputExistsError when GGUF files or records are at a place, or hidden there.

    What a killed process left of a copy may be there.
    """
    refuse_existing(target.model)
    paths = [target.path(name) for name in target.gguf_names]
    others = [] if _is_abandoned(target) else [*paths, target.records]
    for path in (*map(hidden_name, paths), *others):
        refuse_existing(path)


def _is_abandoned(target: Place) -> bool:
    """Whether a copy was killed while it was put there: its first file is still staged."""
    staged = target.directory.glob(f".{glob.escape(target.model.name)}.staged-*")
    return not target.model.exists() and any((one / target.model.name).is_file() for one in staged)


def _put(target: Place, staged: Path) -> None:
    """Move what was staged to its place, the first file last."""
    source = replace(target, directory=staged)
    try:
        source.records.rename(target.records)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # Another process put its copy there meanwhile.
        raise OutputExistsError(
            f"{target.model} already exists; choose another --out or delete it"
        ) from error
    for name in reversed(target.gguf_names):
        source.path(name).rename(target.path(name))
    staged.rmdir()
