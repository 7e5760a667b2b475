"""The steps that every edit on disk shares: write the journal, patch the rows, read them back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelsurgery.apply.coverage import Coverage, measure_coverage
from modelsurgery.apply.journal import Journal, JournalWriter, StoredJournal
from modelsurgery.apply.manifest import describe_edits, manifest_text
from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.layouts import GateMatrix, find_gate_matrices
from modelsurgery.checkpoint.rows import Weights
from modelsurgery.edit.changes import tensor_changes
from modelsurgery.edit.edit import Edit, layout_of, rows_reader, rows_sha256
from modelsurgery.errors import VerificationError
from modelsurgery.files.ahead import worked_ahead
from modelsurgery.files.provenance import provenance


@dataclass(frozen=True)
class Surgery:
    """Edits of a checkpoint on disk, with the matrices that they meet.

    Attributes:
        checkpoint: the model, not yet edited.
        gates: its gate matrices.
        edits: what to add.
    """

    checkpoint: Checkpoint
    gates: tuple[GateMatrix, ...]
    edits: tuple[Edit, ...]

    @classmethod
    def of(cls, checkpoint: Checkpoint, edits: Sequence[Edit]) -> "Surgery":
        """Find the matrices by the layout that the edits carry, or else by the family's."""
        return cls(checkpoint, find_gate_matrices(checkpoint, layout_of(edits)), tuple(edits))

    def write_journal(self, directory: Path) -> tuple[StoredJournal, Coverage]:
        """Put the rows that will change into a journal of `directory`; no weight is written.

        Raises:
            EditMismatchError: the weights are not those that an edit was made for.
            NothingChangedError: no byte would change.
        """
        writer = JournalWriter(directory, self.checkpoint, self.gates)
        with writer.open(), Weights(self.checkpoint) as weights:
            changes = worked_ahead(tensor_changes(self.edits, rows_reader(weights, self.gates)))
            coverage = measure_coverage(
                writer.recorded(changes),
                tensors_found=len(self.gates),
                rows_found=sum(gate.rows for gate in self.gates),
                bytes_total=self.checkpoint.size_bytes,
            )
            stored = writer.finish(
                describe_edits(self.edits),
                coverage,
                provenance().to_json(),
                manifest_text(self.checkpoint.directory),
            )
        return stored, coverage

    def patch(self, weights: Weights) -> None:
        """Write the edited rows into files that hold the unedited ones, and flush them."""
        views = {gate.address: gate.view for gate in self.gates}
        edits = [edit.unbound() for edit in self.edits]  # compared when the journal was written
        for change in worked_ahead(tensor_changes(edits, rows_reader(weights, self.gates))):
            weights.write(views[change.address], change.rows, change.after)
        weights.sync()


def patch_back(stored: StoredJournal, weights: Weights) -> None:
    """Write the original rows of a journal over the edited ones, and flush them.

    Raises:
        JournalError: the journal's rows are damaged; those before it are restored.
    """
    for entry, rows in stored.before():
        weights.write(entry.view, entry.row_numbers, rows)
    weights.sync()


def wrong_tensors(journal: Journal, weights: Weights, *, edited: bool) -> list[str]:
    """Tensors whose rows are not as the edit left them, or, unless `edited`, as it found them."""
    wrong = []
    for entry in journal.entries:
        expected = entry.after_sha256 if edited else entry.before_sha256
        if rows_sha256(weights.read(entry.view, entry.row_numbers)) != expected:
            wrong.append(entry.tensor)
    return list(dict.fromkeys(wrong))


def check_rows(journal: Journal, weights: Weights, *, edited: bool) -> None:
    """Read back every row that a journal names.

    Raises:
        VerificationError: the disk gives back other bytes than were written.
    """
    if wrong := wrong_tensors(journal, weights, edited=edited):
        raise VerificationError(
            f"{weights.checkpoint.directory}: rows of {wrong[0]} have other bytes than were "
            f"written ({len(wrong)} such tensors); check the disk"
        )
