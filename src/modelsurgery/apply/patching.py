"""The steps that every edit on disk shares: write the journal, patch the rows, read them back."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsurgery.apply.arrival import ArrivalSums
from modelsurgery.apply.coverage import Coverage
from modelsurgery.apply.earlier import naming_earlier
from modelsurgery.apply.journal import JournalEntry, StoredJournal, write_journal
from modelsurgery.apply.manifest import manifest_text
from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.layouts import Address, GateMatrix, find_gate_matrices
from modelsurgery.checkpoint.quantized import check_writable, is_quantized
from modelsurgery.checkpoint.rows import Rows, Weights
from modelsurgery.edit.changes import TensorChange, tensor_changes
from modelsurgery.edit.edit import Edit, layout_of, named_as, rows_reader, rows_sha256
from modelsurgery.errors import VerificationError
from modelsurgery.files.parallel import worked_ahead

MOST_KEPT_BYTES = 64 << 20


@dataclass(frozen=True)
class Surgery:
    """Edits of a checkpoint on disk, with the matrices that they meet."""

    checkpoint: Checkpoint  # the model, not yet edited
    gates: tuple[GateMatrix, ...]  # its gate matrices
    edits: tuple[Edit, ...]  # what to add
    # Numbers and edited rows of quantized matrices by address, so that they are quantized once; as
    # many as fit in `MOST_KEPT_BYTES`.
    kept: dict[Address, tuple[NDArray[np.int64], Rows]] = field(default_factory=dict, repr=False)
    # How much of the edits arrives in quantized rows.
    arrival: ArrivalSums = field(default_factory=ArrivalSums, repr=False)

    @classmethod
    def of(cls, checkpoint: Checkpoint, edits: Sequence[Edit]) -> "Surgery":
        """Find the matrices by the layout that the edits carry, or else by the family's."""
        gates = find_gate_matrices(checkpoint, layout_of(edits))
        touched = {update.address for edit in edits for update in edit.updates}
        for dtype in sorted({gate.dtype for gate in gates if gate.address in touched}):
            check_writable(dtype, str(checkpoint.place))
        return cls(checkpoint, gates, named_as(edits, gates))

    def write_journal(self, directory: Path) -> tuple[StoredJournal, Coverage]:
        """Put the rows that will change into a journal of `directory`; no weight is written.

        Raises:
            EditMismatchError: the weights are not those that an edit was made for.
            NothingChangedError: no byte would change.
        """
        naming = naming_earlier(self.checkpoint, self.gates, self.edits)
        with naming, Weights(self.checkpoint) as weights:
            changes = worked_ahead(tensor_changes(self.edits, rows_reader(weights, self.gates)))
            return write_journal(
                directory,
                self.checkpoint,
                self.gates,
                self._keeping(self.arrival.watched(changes)),
                _described(self.edits),
                manifest_text(self.checkpoint.place.records),
            )

    def patch(self, stored: StoredJournal, weights: Weights) -> None:
        """Write the edited rows into files that hold the unedited ones, and read them back.

        Raises:
            VerificationError: the disk gives back other bytes than were written.
        """
        views = {gate.address: gate.view for gate in self.gates}
        for address, (rows, after) in self.kept.items():
            weights.write(views[address], rows, after)
        # Base rows were compared when the journal was written.
        edits = [_without(edit.unbound(), self.kept) for edit in self.edits]
        for change in worked_ahead(tensor_changes(edits, rows_reader(weights, self.gates))):
            weights.write(views[change.address], change.rows, change.after)
        check_rows(stored, weights, edited=True)

    def _keeping(self, changes: Iterable[TensorChange]) -> Iterator[TensorChange]:
        """The same changes; what takes long to make again is kept."""
        size = 0
        for change in changes:
            size += change.after.nbytes
            if is_quantized(change.after.dtype) and size <= MOST_KEPT_BYTES:
                self.kept[change.address] = change.rows, change.after
            yield change


def _without(edit: Edit, addresses: Container[Address]) -> Edit:
    return replace(edit, updates=tuple(one for one in edit.updates if one.address not in addresses))


def _described(edits: Sequence[Edit]) -> list[dict[str, Any]]:
    """Edits for people, as JSON values."""
    return [
        {
            "alpha": edit.alpha,
            "strength": edit.strength,
            "rows": edit.row_count,
            "provenance": edit.provenance.to_json(),
        }
        for edit in edits
    ]


def patch_back(stored: StoredJournal, weights: Weights) -> None:
    """Write the original rows of a journal over the edited ones, and read them back.

    Raises:
        JournalError: the journal's rows are damaged; those before it are restored.
        VerificationError: the disk gives back other bytes than were written.
    """
    for entry, rows in stored.before():
        weights.write(entry.view, entry.row_numbers, rows)
    check_rows(stored, weights, edited=False)


def wrong_tensors(entries: Iterable[JournalEntry], weights: Weights, *, edited: bool) -> list[str]:
    """Tensors whose rows are not as the edit left them, or, unless `edited`, as it found them."""
    wrong = []
    for entry in entries:
        expected = entry.after_sha256 if edited else entry.before_sha256
        if rows_sha256(weights.read(entry.view, entry.row_numbers)) != expected:
            wrong.append(entry.tensor)
    return list(dict.fromkeys(wrong))


def check_rows(stored: StoredJournal, weights: Weights, *, edited: bool) -> None:
    """Flush what was written, and read back every row that a journal names."""
    weights.sync()
    if wrong := wrong_tensors(stored.journal.entries, weights, edited=edited):
        raise VerificationError(
            f"{weights.checkpoint.place}: rows of {wrong[0]} have other bytes than were "
            f"written ({len(wrong)} such tensors); check the disk"
        )
