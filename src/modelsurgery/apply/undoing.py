"""The way back: putting the rows of a journal where they were.

`undo` and the next edit alike begin with what an interrupted one left: a journal that the manifest
does not name, or whose files are still hidden, is put back first, whatever was written of its edit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from modelsurgery.apply.journal import StoredJournal, load_journals, remove_journal, sweep
from modelsurgery.apply.manifest import SURGERY_MANIFEST, Manifest, manifest_text, read_manifest
from modelsurgery.apply.patching import check_rows, patch_back, wrong_tensors
from modelsurgery.apply.weight_files import (
    hidden,
    present,
    privatise,
    refuse_unwritable,
    sweep_copies,
)
from modelsurgery.checkpoint.directory import IN_SURGERY_SUFFIX, Checkpoint
from modelsurgery.checkpoint.header import header_sha256, read_header
from modelsurgery.checkpoint.rows import Weights
from modelsurgery.errors import JournalError, ModelNotFoundError, VerificationError
from modelsurgery.files.atomic import (
    locked,
    remove_unfinished,
    staged_bytes,
    storage_errors,
    sync_directory,
)


@dataclass(frozen=True)
class Undone:
    """Result of `undo`.

    Attributes:
        directory: directory of the model.
        surgeries_undone: number of surgeries undone.
        surgeries_left: number of surgeries that can still be undone.
        rows_restored: number of rows restored.

    Example:
        >>> copy = apply_to_copy("model", [edit], "edited")
        >>> undo("edited").surgeries_undone
        1
    """

    directory: Path
    surgeries_undone: int
    surgeries_left: int
    rows_restored: int


def undo(directory: Path | str, *, everything: bool = False) -> Undone:
    """Restore the bytes that a model directory had before its last surgery.

    If an edit or undo was interrupted, this call completes its undo and does nothing else.

    Args:
        directory: a directory that was edited in place, or an edited copy.
        everything: undo all surgeries, not only the last.

    Returns:
        What was undone.

    Raises:
        ModelNotFoundError: the directory does not exist.
        JournalError: there is nothing to undo, or a journal is damaged. Nothing is written.
        VerificationError: something else changed the edited rows since. Nothing is written.
        StorageError: the disk is full, a file is write-protected, or another surgery is running.

    Example:
        >>> copy = apply_to_copy("model", [edit], "edited")
        >>> undo("edited").surgeries_left
        0
    """
    directory = existing_directory(directory)
    with locked(directory), storage_errors(directory):
        unfinished = settle(directory)
        rows = [] if unfinished is None else [_row_count(unfinished)]
        while unfinished is None or everything:
            journals = load_journals(directory)
            if not journals:
                break
            _check_unchanged(directory, journals[-1])
            put_back(directory, journals[-1])
            rows.append(_row_count(journals[-1]))
            if not everything:
                break
        if not rows and not everything:
            raise _nothing_to_undo(directory)
        return Undone(directory, len(rows), len(load_journals(directory)), sum(rows))


def existing_directory(directory: Path | str) -> Path:
    """The same path, if there is a directory.

    Raises:
        ModelNotFoundError: there is none.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ModelNotFoundError(f"no model directory at {directory}")
    return directory


def settle(directory: Path) -> StoredJournal | None:
    """Put back what an interrupted edit or undo left half done; the journal of it, if any.

    Raises:
        JournalError: files are hidden and no journal says what they held.
    """
    sweep(directory)
    sweep_copies(directory)
    remove_unfinished(directory / SURGERY_MANIFEST)
    under_way = sorted(directory.glob(f"*{IN_SURGERY_SUFFIX}"))
    journals = load_journals(directory)
    counting = read_manifest(directory).journals
    open_ones = [one for one in journals if one.name not in counting]
    if under_way and not open_ones:
        # The manifest names the journal already, or does not name it any more.
        open_ones = [one for one in journals if _hides(one, under_way)][-1:]
        if not open_ones:
            raise JournalError(
                f"{directory}: {under_way[0].name} was being edited and its journal is missing; "
                "fetch the file again"
            )
    for stored in reversed(open_ones):
        put_back(directory, stored)
    return open_ones[-1] if open_ones else None


def _hides(stored: StoredJournal, under_way: list[Path]) -> bool:
    names = {path.name.removesuffix(IN_SURGERY_SUFFIX) for path in under_way}
    return names <= set(stored.journal.files)


def put_back(directory: Path, stored: StoredJournal) -> None:
    """Restore rows and manifest from a journal, whatever was written of the edit; remove it."""
    checkpoint = changed_files(directory, stored)
    for _ in stored.before():  # refuse damaged rows before the first is written
        pass
    refuse_unwritable(present(directory / name) for name in stored.journal.files)
    privatise(directory, stored)
    with _earlier_manifest(directory, stored) as put, hidden(checkpoint, stored) as weights:
        patch_back(stored, weights)
        check_rows(stored.journal, weights, edited=False)
        put()
    remove_journal(stored)


@contextmanager
def _earlier_manifest(directory: Path, stored: StoredJournal) -> Iterator[Callable[[], None]]:
    """The manifest from before the edit, written down; the function given puts it in place.

    A full disk is met here, before anything of the model is touched.
    """
    path, text = directory / SURGERY_MANIFEST, stored.journal.manifest_before
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


def _check_unchanged(directory: Path, stored: StoredJournal) -> None:
    with Weights(changed_files(directory, stored)) as weights:
        wrong = wrong_tensors(stored.journal, weights, edited=True)
    if wrong:
        raise VerificationError(
            f"{directory}: something else changed rows of {wrong[0]} after the surgery "
            f"({len(wrong)} such tensors); nothing was undone, fetch the model again"
        )


def changed_files(directory: Path, stored: StoredJournal) -> Checkpoint:
    """The files that a journal names, hidden or not, as tensors on disk.

    Raises:
        JournalError: one is missing or has another header than when the journal was written.
    """
    tensors = {}
    for name, header in stored.journal.files.items():
        path = present(directory / name)
        if not path.is_file() or header_sha256(path) != header:
            raise JournalError(
                f"{path}: journal {stored.name} belongs to another file, whose tensors are at "
                "other positions"
            )
        found = read_header(path)
        tensors.update({tensor: replace(one, file=name) for tensor, one in found.items()})
    for entry in stored.journal.entries:
        if entry.tensor not in tensors or not entry.view.fits(tensors[entry.tensor]):
            raise JournalError(
                f"{stored.path}: its rows of {entry.tensor!r} lie outside that tensor"
            )
    return Checkpoint(directory, {}, tensors)


def refuse_lost_journals(directory: Path, manifest: Manifest) -> None:
    """Raise JournalError when a journal that the manifest names is not there."""
    there = {stored.name for stored in load_journals(directory)}
    if lost := sorted(set(manifest.journals) - there):
        raise JournalError(
            f"{directory}: its manifest names journal {lost[0]}, which is missing, so the edit "
            "cannot be undone; fetch the model again"
        )


def refuse_complete_edits(directory: Path) -> None:
    """Refuse to take an edit for an interrupted one because its manifest was lost.

    An edit ends by naming its journal before its files get their names back; so one whose rows are
    all there under their own names, and which no manifest names, was complete once.
    """
    counting = read_manifest(directory).journals
    for stored in load_journals(directory):
        files = [directory / name for name in stored.journal.files]
        if stored.name in counting or not all(path.is_file() for path in files):
            continue
        with Weights(changed_files(directory, stored)) as weights:
            complete = not wrong_tensors(stored.journal, weights, edited=True)
        if complete:
            raise JournalError(
                f"{directory}: the edit of journal {stored.name} is complete, but "
                f"{SURGERY_MANIFEST}, which should name it, was removed or replaced; `surgery undo "
                f"{directory}` undoes the edit"
            )


def _nothing_to_undo(directory: Path) -> JournalError:
    refuse_lost_journals(directory, read_manifest(directory))
    return JournalError(f"{directory}: no surgery to undo; it has no journal")


def _row_count(stored: StoredJournal) -> int:
    return sum(len(entry.numbers) for entry in stored.journal.entries)
