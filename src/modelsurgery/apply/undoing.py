"""The way back: putting the rows of a journal where they were.

`undo` and the next edit alike begin with what an interrupted one left: a journal that the manifest
does not name, or whose files are still hidden, is put back first, whatever was written of its edit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modelsurgery.apply.journal import StoredJournal, load_journals, remove_journal, sweep
from modelsurgery.apply.manifest import SURGERY_MANIFEST, manifest_text, read_manifest
from modelsurgery.apply.patching import patch_back, wrong_tensors
from modelsurgery.apply.recognition import changed_files, check_recorded, known_rows
from modelsurgery.apply.weight_files import (
    hidden,
    present,
    privatise,
    refuse_unwritable,
    sweep_copies,
)
from modelsurgery.checkpoint.place import Place, place_of
from modelsurgery.checkpoint.rows import Weights
from modelsurgery.errors import JournalError, ModelNotFoundError
from modelsurgery.files.atomic import (
    locked,
    refuse_unreadable,
    remove_unfinished,
    staged_bytes,
    storage_errors,
    sync,
)
from modelsurgery.files.object_store import refuse_url


@dataclass(frozen=True)
class Undone:
    """Result of `undo`.

    Attributes:
        directory: the model: its directory, or its GGUF file.
        surgeries_undone: number of surgeries undone.
        surgeries_left: number of surgeries that can still be undone.
        rows_restored: number of rows restored.
        records_removed: number of surgeries whose record was removed because the model, replaced
            since, has the original rows already; they are not counted as undone.

    Example:
        >>> copy = apply_to_copy("model", [edit], "edited")
        >>> undo("edited").surgeries_undone
        1
    """

    directory: Path
    surgeries_undone: int
    surgeries_left: int
    rows_restored: int
    records_removed: int = 0


def undo(directory: Path | str, *, everything: bool = False) -> Undone:
    """Restore the bytes that a model directory had before its last surgery.

    If an edit or undo was interrupted, this call completes its undo and does nothing else. If the
    model has the original rows already, because it was fetched again, only the record is removed.

    Args:
        directory: a model (directory or GGUF file) that was edited in place, or an edited copy.
        everything: undo all surgeries, not only the last.

    Returns:
        What was undone.

    Raises:
        ModelNotFoundError: the model does not exist.
        JournalError: there is nothing to undo, or a journal is damaged. Nothing is written.
        VerificationError: something else changed the edited rows, or replaced the file. Nothing is
            written.
        StorageError: the disk is full, a file is write-protected, or another surgery is running.

    Example:
        >>> copy = apply_to_copy("model", [edit], "edited")
        >>> undo("edited").surgeries_left
        0
    """
    refuse_url(
        directory,
        "undo works on a local disk; the model that it was made from is still "
        "where it was, or download this one and undo it there",
    )
    place = existing_place(directory)
    with locked(place.directory), storage_errors(place.model):
        unfinished = settle(place)
        undone = [] if unfinished is None else [unfinished]
        removed = 0
        journals = load_journals(place.records)
        while journals and (everything or not (undone or removed)):
            last = journals.pop()
            if known_rows(place, last).edited:
                put_back(place, last)
                undone.append(last)
            else:
                _forget(place, last)
                removed += 1
        if not (undone or removed or everything):
            refuse_lost_journals(place)
            raise JournalError(f"{place}: no surgery to undo; it has no journal")
        rows = sum(stored.journal.row_count for stored in undone)
        return Undone(place.model, len(undone), len(journals), rows, removed)


def existing_place(model: Path | str) -> Place:
    """Where a model is that is given as a directory or a GGUF file, perhaps a hidden one.

    Raises:
        ModelNotFoundError: there is none.
    """
    place = place_of(model)
    if place.is_gguf and not (place.model.is_file() or place.hidden()):
        raise ModelNotFoundError(f"no model file at {place.model}")
    if not place.is_gguf and not place.directory.is_dir():
        refuse_unreadable(place.directory)
        raise ModelNotFoundError(f"no model directory at {place.directory}")
    return place


def settle(place: Place) -> StoredJournal | None:
    """Put back what an interrupted edit or undo left half done; the journal of it, if any.

    Raises:
        JournalError: files are hidden and no journal says what they held.
        VerificationError: a file was replaced since.
    """
    remove_unfinished(place.records / SURGERY_MANIFEST)
    sweep(place.records)
    sweep_copies(place)
    under_way = place.hidden()
    journals = load_journals(place.records)
    counting = read_manifest(place.records).journals
    open_ones = [one for one in journals if one.name not in counting]
    if under_way and not open_ones:
        # The manifest names the journal already, or does not name it any more.
        names = {place.stable_name(path) for path in under_way}
        open_ones = [one for one in journals if names <= set(one.journal.files)][-1:]
        if not open_ones:
            raise JournalError(
                f"{place}: {under_way[0].name} was being edited and its journal is missing; "
                "fetch the file again"
            )
    for stored in reversed(open_ones):
        known_rows(place, stored)
        put_back(place, stored)
    return open_ones[-1] if open_ones else None


def put_back(place: Place, stored: StoredJournal) -> None:
    """Restore rows and manifest from a journal, whatever was written of the edit; remove it."""
    checkpoint = changed_files(place, stored)
    for _ in stored.before():  # refuse damaged rows before the first is written
        pass
    paths = [present(place.path(name)) for name in stored.journal.files]
    refuse_unwritable(paths, undoing=True)
    privatise(place, stored)
    with _earlier_manifest(place.records, stored) as put, hidden(checkpoint, stored) as weights:
        patch_back(stored, weights)
        put()
    remove_journal(stored)


def forget_undone(place: Place) -> int:
    """Remove the newest journals while their rows are the original ones; how many there were.

    Raises:
        JournalError, VerificationError: rows of the newest are not all old or all new.
    """
    journals = load_journals(place.records)
    count = len(journals)
    while journals and not check_recorded(place, journals[-1]).edited:
        _forget(place, journals.pop())
    return count - len(journals)


def _forget(place: Place, stored: StoredJournal) -> None:
    """Remove a journal that has nothing to put back; in the order of `put_back`."""
    with _earlier_manifest(place.records, stored) as put:
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
            sync(directory)

        yield remove
    elif text == manifest_text(directory):
        yield lambda: None
    else:
        with staged_bytes(path, text.encode()) as put:
            yield put


def refuse_lost_journals(place: Place) -> None:
    """Raise JournalError when a journal that the manifest names is not there."""
    there = {stored.name for stored in load_journals(place.records)}
    if lost := sorted(set(read_manifest(place.records).journals) - there):
        raise JournalError(
            f"{place}: its manifest names journal {lost[0]}, which is missing, so the edit "
            "cannot be undone; fetch the model again"
        )


def refuse_complete_edits(place: Place) -> None:
    """Refuse to take an edit for an interrupted one because its manifest was lost.

    An edit ends by naming its journal before its files get their names back; so one whose rows are
    all there under their own names, and which no manifest names, was complete once.
    """
    counting = read_manifest(place.records).journals
    for stored in load_journals(place.records):
        files = [place.path(name) for name in stored.journal.files]
        if stored.name in counting or not all(path.is_file() for path in files):
            continue
        with Weights(changed_files(place, stored)) as weights:
            complete = not wrong_tensors(stored.journal.entries, weights, edited=True)
        if complete:
            raise JournalError(
                f"{place}: the edit of journal {stored.name} is complete, but "
                f"{SURGERY_MANIFEST}, which should name it, was removed or replaced; `surgery undo "
                f"{place}` undoes the edit"
            )
