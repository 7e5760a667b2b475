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
    """What is where the rows of a journal belong.

    Attributes:
        edited: tensors with rows as the edit left them.
        original: tensors with rows as they were before it.
    """

    edited: tuple[str, ...]
    original: tuple[str, ...]


def known_rows(place: Place, stored: StoredJournal) -> KnownRows:
    """Look at the rows of a journal in all files that bear their own names.

    Raises:
        JournalError: a file is missing, or is not the one that the journal was written for.
        VerificationError: rows are neither old nor new.
    """
    checkpoint = changed_files(place, stored)
    edited, original, others = [], [], []
    with Weights(checkpoint) as weights:
        for entry in stored.journal.entries:
            if not place.path(checkpoint.tensors[entry.tensor].file).exists():
                continue
            found = rows_sha256(weights.read(entry.view, entry.row_numbers))
            if found == entry.after_sha256:
                edited.append(entry.tensor)
            else:
                (original if found == entry.before_sha256 else others).append(entry.tensor)
    if others:
        path = place.path(checkpoint.tensors[others[0]].file)
        raise VerificationError(
            f"{path}: something else changed rows of {others[0]} ({len(set(others))} such "
            f"tensors): they are neither the old nor the new rows of surgery {stored.name}, so "
            "nothing was undone; fetch the model again, or, if the file was replaced by another "
            f"model, delete {records_of(place)}; a renamed {hidden_name(path).name} needs that "
            "name again"
        )
    return KnownRows(tuple(edited), tuple(original))


def records_of(place: Place) -> str:
    """What to delete to give up undoing, for messages."""
    if place.is_gguf:
        return str(place.records)
    paths = (place.records / SURGERY_DIRECTORY, place.records / SURGERY_MANIFEST)
    return " and ".join(str(path) for path in paths if path.exists())


def changed_files(place: Place, stored: StoredJournal) -> Checkpoint:
    """The files that a journal names, hidden or not, as tensors on disk.

    Raises:
        JournalError: one is missing or has another header than when the journal was written.
    """
    tensors = {}
    for name, header in stored.journal.files.items():
        path = present(place.path(name))
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
    return Checkpoint(place.directory, {}, tensors, place if place.is_gguf else None)
