"""An edit in place, and the way back.

The steps of an edit, each of which a killed process may be the last to have begun:

1. The journal with the original rows is complete and flushed. Nothing of the model has changed.
2. The files to be patched are renamed to `*.in-surgery`: from here to step 5 nothing can load the
   model, so nothing can load a mixture of two.
3. Rows are patched, flushed and read back.
4. The manifest names the journal.
5. The files get their names back: the new model.

`undo` does the same with the original rows. It is complete, and so is an edit begun anew, whatever
step the process before it died in: as long as a journal is not both named by the manifest and all
files are back, the rows that it holds are put back first.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from modelsurgery.apply.coverage import Coverage
from modelsurgery.apply.journal import (
    StoredJournal,
    load_journals,
    remove_journal,
    sweep,
)
from modelsurgery.apply.manifest import (
    MANIFEST_FILE,
    Manifest,
    Operation,
    WeightHashes,
    manifest_text,
    operation,
    read_manifest,
    write_manifest,
)
from modelsurgery.apply.patching import Surgery, check_rows, patch_back, wrong_tensors
from modelsurgery.checkpoint import IN_SURGERY_SUFFIX, Checkpoint, open_checkpoint
from modelsurgery.edit import Edit
from modelsurgery.errors import JournalError, ModelNotFoundError, StorageError, VerificationError
from modelsurgery.files import (
    locked,
    remove_unfinished,
    staged_bytes,
    storage_errors,
    sync_directory,
    sync_file,
)
from modelsurgery.header import header_sha256, read_header
from modelsurgery.rows import Weights

PRIVATE_COPY_SUFFIX = ".private-copy"


@dataclass(frozen=True)
class EditedInPlace:
    """What `apply_in_place` did.

    Attributes:
        directory: the model.
        coverage: what changed, of how much.
        journal: the directory that holds the way back.
    """

    directory: Path
    coverage: Coverage
    journal: Path


@dataclass(frozen=True)
class Undone:
    """What `undo` did.

    Attributes:
        directory: the model.
        surgeries_undone: how many.
        surgeries_left: how many could still be undone.
        rows_restored: rows that got their bytes back.
    """

    directory: Path
    surgeries_undone: int
    surgeries_left: int
    rows_restored: int


def apply_in_place(directory: Path | str, edits: Sequence[Edit]) -> EditedInPlace:
    """Edit the weights of a model directory where they are, with a journal to undo it.

    What an interrupted edit left is put back first. A file that has a second name elsewhere (a
    hard link) gets bytes of its own before it is written to.

    Args:
        directory: model directory with one or several safetensors files.
        edits: edits made for it; on one row they are summed.

    Raises:
        EditMismatchError: the weights are not those that an edit was made for.
        NothingChangedError: no byte would change.
        JournalError: a journal of an earlier edit is damaged or gone.
        StorageError: the disk is full, a file is write-protected, or another surgery is at work.
        VerificationError: the disk gave back other bytes than were written; the model is put back.
    """
    directory = _model_directory(directory)
    with locked(directory), storage_errors(directory):
        _settle(directory)
        checkpoint = open_checkpoint(directory)
        surgery = Surgery.of(checkpoint, edits)
        _refuse_unwritable(_present(directory / name) for name in checkpoint.files)
        before = read_manifest(directory)
        _refuse_lost_journals(directory, before)
        stored, coverage = surgery.write_journal(directory)
        try:
            _privatise(directory, stored)
        except BaseException:
            remove_journal(stored)  # no row was written, and on a full disk it makes room
            raise
        try:
            with _hidden(checkpoint, stored) as weights:
                surgery.patch(weights)
                check_rows(stored.journal, weights, edited=True)
                entry = operation(stored.name, surgery.edits, coverage, stored.journal.provenance)
                write_manifest(directory, _with_operation(before, entry, stored))
        except BaseException:
            _put_back(directory, stored)
            raise
    return EditedInPlace(directory, coverage, stored.path)


def undo(directory: Path | str, *, everything: bool = False) -> Undone:
    """Give a model directory the bytes back that it had before the last surgery.

    Completes what an interrupted edit or undo left half done, and then that is all it does.

    Args:
        directory: a directory that was edited in place, or an edited copy.
        everything: undo all surgeries, not only the last.

    Raises:
        JournalError: nothing to undo, or a damaged journal; nothing is written.
        VerificationError: edited rows were changed by something else since; nothing is written.
        StorageError: the disk is full, a file is write-protected, or another surgery is at work.
    """
    directory = _model_directory(directory)
    with locked(directory), storage_errors(directory):
        unfinished = _settle(directory)
        rows = [] if unfinished is None else [_row_count(unfinished)]
        while unfinished is None or everything:
            journals = load_journals(directory)
            if not journals:
                break
            _check_unchanged(directory, journals[-1])
            _put_back(directory, journals[-1])
            rows.append(_row_count(journals[-1]))
            if not everything:
                break
        if not rows and not everything:
            raise _nothing_to_undo(directory)
        return Undone(directory, len(rows), len(load_journals(directory)), sum(rows))


def _model_directory(directory: Path | str) -> Path:
    directory = Path(directory)
    if not directory.is_dir():
        raise ModelNotFoundError(f"no model directory at {directory}")
    return directory


def _refuse_lost_journals(directory: Path, manifest: Manifest) -> None:
    there = {stored.name for stored in load_journals(directory)}
    if lost := sorted(set(manifest.journals) - there):
        raise JournalError(
            f"{directory}: its manifest names journal {lost[0]}, which is gone, and with it the "
            "way back; fetch the model again"
        )


def _nothing_to_undo(directory: Path) -> JournalError:
    _refuse_lost_journals(directory, read_manifest(directory))
    return JournalError(f"{directory}: no surgery to undo; it has no journal")


def _settle(directory: Path) -> StoredJournal | None:
    """Put back what an interrupted edit or undo left half done; the journal of it, if any.

    Raises:
        JournalError: files are hidden and no journal says what they held.
    """
    sweep(directory)
    _sweep_copies(directory)
    hidden = sorted(directory.glob(f"*{IN_SURGERY_SUFFIX}"))
    journals = load_journals(directory)
    counting = read_manifest(directory).journals
    open_ones = [one for one in journals if one.name not in counting]
    if hidden and not open_ones:
        # The manifest names the journal already, or does not name it any more.
        open_ones = [one for one in journals if _hides(one, hidden)][-1:]
        if not open_ones:
            raise JournalError(
                f"{directory}: {hidden[0].name} was being edited and its journal is gone; fetch "
                "that file again"
            )
    for stored in reversed(open_ones):
        _put_back(directory, stored)
    return open_ones[-1] if open_ones else None


def _sweep_copies(directory: Path) -> None:
    """Remove the unfinished private copy or manifest that a killed process left."""
    for path in directory.glob(f".*{PRIVATE_COPY_SUFFIX}"):
        path.unlink()
    remove_unfinished(directory / MANIFEST_FILE)


def _hides(stored: StoredJournal, hidden: list[Path]) -> bool:
    names = {path.name.removesuffix(IN_SURGERY_SUFFIX) for path in hidden}
    return names <= set(stored.journal.files)


def _put_back(directory: Path, stored: StoredJournal) -> None:
    """Restore rows and manifest from a journal, whatever was written of the edit; remove it."""
    checkpoint = _changed_files(directory, stored)
    for _ in stored.before():  # refuse damaged rows before the first is written
        pass
    _refuse_unwritable(_present(directory / name) for name in stored.journal.files)
    _privatise(directory, stored)
    with _earlier_manifest(directory, stored) as put, _hidden(checkpoint, stored) as weights:
        patch_back(stored, weights)
        check_rows(stored.journal, weights, edited=False)
        put()
    remove_journal(stored)


@contextmanager
def _earlier_manifest(directory: Path, stored: StoredJournal) -> Iterator[Callable[[], None]]:
    """The manifest from before the edit, written down; the function given puts it in place.

    A full disk is met here, before anything of the model is touched.
    """
    path, text = directory / MANIFEST_FILE, stored.journal.manifest_before
    if text is None:

        def remove() -> None:
            path.unlink(missing_ok=True)
            sync_directory(directory)

        yield remove
    elif text == manifest_text(directory):
        yield lambda: None
    else:
        with staged_bytes(path, text.encode()) as put:
            yield put


def _changed_files(directory: Path, stored: StoredJournal) -> Checkpoint:
    """The files that a journal names, hidden or not, as tensors on disk.

    Raises:
        JournalError: one is missing or has another header than when the journal was written.
    """
    tensors = {}
    for name, header in stored.journal.files.items():
        path = _present(directory / name)
        if not path.is_file() or header_sha256(path) != header:
            raise JournalError(
                f"{path}: not the file that journal {stored.name} belongs to; its tensors are "
                "elsewhere"
            )
        found = read_header(path)
        tensors.update({tensor: replace(one, file=name) for tensor, one in found.items()})
    for entry in stored.journal.entries:
        if entry.tensor not in tensors or not entry.view.fits(tensors[entry.tensor]):
            raise JournalError(
                f"{stored.path}: its rows of {entry.tensor!r} lie outside that tensor"
            )
    return Checkpoint(directory, {}, tensors)


def _present(path: Path) -> Path:
    """A file under its own name or hidden.

    Raises:
        JournalError: it is under neither, or under both.
    """
    hidden = _hidden_name(path)
    here, there = os.path.lexists(path), os.path.lexists(hidden)
    if here == there:
        state = "is there twice" if here else "is missing"
        raise JournalError(
            f"{path} {state}; expected it or {hidden.name}: keep the one that the surgery wrote to"
        )
    return path if here else hidden


def _hidden_name(path: Path) -> Path:
    return path.with_name(path.name + IN_SURGERY_SUFFIX)


def _check_unchanged(directory: Path, stored: StoredJournal) -> None:
    with Weights(_changed_files(directory, stored)) as weights:
        wrong = wrong_tensors(stored.journal, weights, edited=True)
    if wrong:
        raise VerificationError(
            f"{directory}: rows of {wrong[0]} are not as the surgery left them ({len(wrong)} such "
            "tensors); something else changed them since, and nothing was undone"
        )


def _refuse_unwritable(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_symlink():
            raise StorageError(
                f"{path} is a symbolic link, perhaps into a cache that others use; write an edited "
                "copy with --out"
            )
        if not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
            raise StorageError(
                f"{path} is write-protected; give write permission with `chmod u+w` or write an "
                "edited copy with --out"
            )


def _privatise(directory: Path, stored: StoredJournal) -> None:
    """Give every file to be written to bytes of its own, so that no other name of it changes."""
    for name in stored.journal.files:
        path = _present(directory / name)
        copy = directory / f".{name}{PRIVATE_COPY_SUFFIX}"
        if path.stat().st_nlink > 1:
            try:
                shutil.copy2(path, copy)
                sync_file(copy)
                copy.replace(path)
            except BaseException:
                copy.unlink(missing_ok=True)
                raise
            sync_directory(directory)


@contextmanager
def _hidden(checkpoint: Checkpoint, stored: StoredJournal) -> Iterator[Weights]:
    """Files of a journal open for patching, and under names that nothing loads meanwhile.

    They get their names back when the block ends well, and only then.
    """
    directory = checkpoint.directory
    names = list(stored.journal.files)
    for name in names:
        path = directory / name
        if path.exists():
            path.rename(_hidden_name(path))
    sync_directory(directory)
    tensors = {
        name: replace(one, file=_hidden_name(Path(one.file)).name)
        for name, one in checkpoint.tensors.items()
        if one.file in names
    }
    with Weights(Checkpoint(directory, checkpoint.config, tensors), writable=True) as weights:
        yield weights
    for name in names:
        _hidden_name(directory / name).rename(directory / name)
    sync_directory(directory)


def _with_operation(before: Manifest, entry: Operation, stored: StoredJournal) -> Manifest:
    """The manifest with one surgery more; hashes of whole tensors that it changed are dropped."""
    changed = {one.tensor for one in stored.journal.entries}
    weights = {
        file: WeightHashes(
            header=hashes.header,
            tensors={name: one for name, one in hashes.tensors.items() if name not in changed},
        )
        for file, hashes in before.weights.items()
    }
    return Manifest(
        operations=[*before.operations, entry],
        files=before.files,
        weights=weights,
    )


def _row_count(stored: StoredJournal) -> int:
    return sum(len(entry.numbers) for entry in stored.journal.entries)
