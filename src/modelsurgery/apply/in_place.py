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

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelsurgery.apply.arrival import Arrival
from modelsurgery.apply.coverage import Coverage
from modelsurgery.apply.journal import remove_journal
from modelsurgery.apply.manifest import read_manifest, write_manifest
from modelsurgery.apply.patching import Surgery
from modelsurgery.apply.undoing import (
    existing_place,
    forget_undone,
    put_back,
    refuse_complete_edits,
    refuse_lost_journals,
    settle,
)
from modelsurgery.apply.weight_files import hidden, present, privatise, refuse_unwritable
from modelsurgery.checkpoint.directory import open_checkpoint
from modelsurgery.edit.edit import Edit
from modelsurgery.files.atomic import locked, storage_errors
from modelsurgery.files.object_store import refuse_url


@dataclass(frozen=True)
class EditedInPlace:
    """Result of `apply_in_place`.

    Attributes:
        directory: the model: its directory, or its GGUF file.
        coverage: how much of the model changed.
        journal: directory with the original rows, for `undo`.
        put_back_first: whether an interrupted edit was undone first.
        arrival: of quantized types, by name, how much of the edits arrived in their rows.
        records_removed: number of earlier surgeries whose record was removed because the model,
            replaced since, has the original rows.

    Example:
        >>> apply_in_place("own-model", [edit]).put_back_first
        False
    """

    directory: Path
    coverage: Coverage
    journal: Path
    put_back_first: bool
    arrival: dict[str, Arrival] = field(default_factory=dict)
    records_removed: int = 0


def apply_in_place(directory: Path | str, edits: Sequence[Edit]) -> EditedInPlace:
    """Edit the weights of a model in place, with a journal to undo it.

    The original rows are on disk before the first byte changes. An interrupted edit is undone
    first. A file that is hard-linked elsewhere is replaced by a private copy before it is written.

    Args:
        directory: model directory with one or several safetensors files, or a GGUF file.
        edits: edits made for this model. Edits of the same row are added up.

    Returns:
        What changed, and where the journal is.

    Raises:
        EditMismatchError: the weights are not those that an edit was made for.
        NothingChangedError: no byte would change.
        JournalError: the journal of an earlier edit, or the manifest that names it, is damaged or
            missing.
        StorageError: the disk is full, a file is write-protected, or another surgery is running.
        VerificationError: the disk returned bytes other than those written (the model is restored),
            or a file was replaced after an earlier edit (nothing is written).

    Example:
        >>> done = apply_in_place("own-model", [edit])
        >>> undo("own-model").surgeries_left
        0
    """
    refuse_url(
        directory,
        "objects cannot be edited in place: they are replaced whole, one at a time, and a model of "
        "several could be loaded half edited; give --out s3://…",
    )
    place = existing_place(directory)
    with locked(place.directory), storage_errors(place.model):
        refuse_complete_edits(place)
        unfinished = settle(place)
        checkpoint = open_checkpoint(place.model)
        surgery = Surgery.of(checkpoint, edits)
        refuse_unwritable(present(place.path(name)) for name in checkpoint.files)
        refuse_lost_journals(place)
        removed = forget_undone(place)
        before = read_manifest(place.records)
        stored, coverage = surgery.write_journal(place.records)
        try:
            privatise(place, stored)
        except BaseException:
            remove_journal(stored)  # no row was written, and on a full disk it makes room
            raise
        try:
            with hidden(checkpoint, stored) as weights:
                surgery.patch(stored, weights)
                write_manifest(place.records, before.after(stored))
        except BaseException:
            put_back(place, stored)
            raise
    arrival = surgery.arrival.by_type()
    return EditedInPlace(
        place.model, coverage, stored.path, unfinished is not None, arrival, removed
    )
