"""Whether edits fit a model on disk, seen from a few of its rows before it is loaded."""

from collections.abc import Sequence
from pathlib import Path

from modelsurgery.checkpoint.directory import open_checkpoint
from modelsurgery.checkpoint.layouts import GateLayout, find_gate_matrices
from modelsurgery.checkpoint.place import is_gguf
from modelsurgery.checkpoint.rows import Weights
from modelsurgery.edit.changes import check_bases
from modelsurgery.edit.edit import Edit, layout_of, named_as, rows_reader
from modelsurgery.errors import UnsupportedModelError


def check_fits(model: Path, edits: Sequence[Edit], layout: GateLayout | None = None) -> None:
    """Refuse edits of another model before minutes are spent on loading this one.

    Says nothing where only the loaded model can tell: of a model that is not on disk, of rows that
    cannot be read there, and of edits of early versions, which know rows of one type only. The
    layout that edits carry comes before the one given.

    Raises:
        CheckpointError: the headers of the model are damaged.
        EditMismatchError: the rows are not those that an edit was made for.
    """
    updates = [update for edit in edits for update in edit.updates]
    is_early = any(one.base_rows_sha256 and one.base_samples is None for one in updates)
    is_there = model.is_dir() or (is_gguf(model) and model.is_file())
    if not updates or is_early or not is_there:
        return
    try:
        checkpoint = open_checkpoint(model)
        gates = find_gate_matrices(checkpoint, layout_of(edits) or layout)
    except UnsupportedModelError:
        return
    named = named_as(edits, gates)
    with Weights(checkpoint) as weights:
        read = rows_reader(weights, gates)
        check_bases(named, read, is_dequantized=checkpoint.is_dequantized)
