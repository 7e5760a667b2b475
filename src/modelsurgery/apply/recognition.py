"""Whether the rows in a model's files are those that a journal knows.

Files are replaced: by a download, a backup, another model of the same shape. Rows of a journal are
written back only over rows that it knows, old or new, so that no other model gets them. A row that
a crash left half written is in a file that is still called `*.in-surgery`.
"""

from dataclasses import dataclass, replace

from modelsurgery.apply.journal import SURGERY_DIRECTORY, StoredJournal
from modelsurgery.apply.manifest import SURGERY_MANIFEST
from modelsurgery.apply.weight_files import present
from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.place import Place, hidden_name
from modelsurgery.checkpoint.rows import Weights
from modelsurgery.checkpoint.weight_headers import header_sha256, read_header
from modelsurgery.edit.edit import rows_sha256
from modelsurgery.errors import JournalError, VerificationError


@dataclass(frozen=True)
class KnownRows:
    """Tensors with rows of a journal as its edit left them, and with rows as they were before."""

    edited: list[str]
    original: list[str]


def known_rows(place: Place, stored: StoredJournal) -> KnownRows:
    """Look at the rows of a journal in all files that bear their own names.

    Raises:
        JournalError: a file is missing, or is not the one that the journal was written for.
        VerificationError: rows are neither old nor new.
    """
    checkpoint = changed_files(place, stored)
    known = KnownRows(edited=[], original=[])
    others: list[str] = []
    with Weights(checkpoint) as weights:
        for entry in stored.journal.entries:
            if not place.path(checkpoint.tensors[entry.tensor].file).exists():
                continue
            found = rows_sha256(weights.read(entry.view, entry.row_numbers))
            states = {entry.before_sha256: known.original, entry.after_sha256: known.edited}
            states.get(found, others).append(entry.tensor)
    if others:
        path = place.path(checkpoint.tensors[others[0]].file)
        raise VerificationError(
            f"{path}: something else changed rows of {others[0]} ({len(set(others))} such "
            f"tensors): they are neither the old nor the new rows of surgery {stored.name}, so "
            "nothing was written; fetch the model again, or, if the file was replaced by another "
            f"model, delete {records_of(place)}; a renamed {hidden_name(path).name} needs that "
            "name again"
        )
    return known


def check_recorded(place: Place, stored: StoredJournal) -> KnownRows:
    """The rows of a complete surgery, which are all old or all new; else a VerificationError."""
    known = known_rows(place, stored)
    if known.edited and known.original:
        raise _replaced(place, stored, known)
    return known


def refuse_replaced(place: Place, stored: StoredJournal) -> None:
    """Raise VerificationError unless all rows of a journal are as its edit left them."""
    known = known_rows(place, stored)
    if known.original:
        raise _replaced(place, stored, known)


def _replaced(place: Place, stored: StoredJournal, known: KnownRows) -> VerificationError:
    return VerificationError(
        f"{place}: rows of {known.original[0]} are the original ones, though surgery {stored.name} "
        f"is recorded; the file was replaced: run `surgery undo {place}` first, which leaves the "
        "original rows and removes the record"
    )


def records_of(place: Place) -> str:
    """What to delete to give up undoing, for messages."""
    if place.is_gguf:
        return str(place.records)
    paths = (place.records / SURGERY_DIRECTORY, place.records / SURGERY_MANIFEST)
    return " and ".join(str(path) for path in paths if path.exists())


def changed_files(place: Place, stored: StoredJournal) -> Checkpoint:
    """The files that a journal names, hidden or not, as tensors on disk.

    The header of a file may have changed since, as metadata do: what counts is that the rows are
    inside their tensors, and known. Of a hidden file they may be half written, so that its header
    must be the same.

    Raises:
        JournalError: one is missing, is another file, or lacks a tensor of that type and size.
    """
    tensors = {}
    for name, header in stored.journal.files.items():
        path = present(place.path(name))
        if not path.is_file():  # a link to nothing, a directory
            raise JournalError(
                f"{path} is missing; expected the file that surgery {stored.name} edited: fetch or "
                "restore it, then try again"
            )
        found = read_header(path)
        if path != place.path(name) and header_sha256(path) != header:
            raise JournalError(
                f"{path}: its header is not that of the file that surgery {stored.name} was "
                "writing to when it was interrupted; give that file its name back, or fetch the "
                f"model again and delete {records_of(place)}"
            )
        tensors.update({tensor: replace(one, file=name) for tensor, one in found.items()})
    for entry in stored.journal.entries:
        if not entry.fits(tensors):
            raise JournalError(
                f"{place}: {entry.tensor!r} is missing, smaller or of another type than journal "
                f"{stored.path} says, so its rows cannot be put back; if the model was replaced by "
                f"another, delete {records_of(place)}"
            )
    return Checkpoint(place.directory, {}, tensors, place if place.is_gguf else None)
