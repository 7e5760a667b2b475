"""An edit that meets rows of an earlier surgery: the refusal says which one it was.

An edit is made for the original rows, and rounded once. So edits of the same rows are applied
together, and not one on top of the other.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from modelsurgery.apply.journal import StoredJournal, load_journals
from modelsurgery.apply.manifest import read_manifest
from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.layouts import GateMatrix
from modelsurgery.checkpoint.rows import Rows, Weights
from modelsurgery.edit.changes import check_bases
from modelsurgery.edit.edit import Edit, RowUpdate, rows_reader
from modelsurgery.errors import EditMismatchError


@contextmanager
def naming_earlier(
    checkpoint: Checkpoint, gates: Sequence[GateMatrix], edits: Sequence[Edit]
) -> Iterator[None]:
    """Name the earlier surgery when edits are refused in the block only because of it.

    Raises:
        EditMismatchError: with the original rows of its journals the model would be the right one.
    """
    try:
        yield
    except EditMismatchError as error:
        place = checkpoint.place
        counting = read_manifest(place.records).journals
        journals = [one for one in load_journals(place.records) if one.name in counting]
        met = _met(checkpoint, gates, edits, journals)
        if not met:
            raise
        name, tensor = met
        raise EditMismatchError(
            f"{place}: rows of {tensor} were edited already, by surgery {name}; undo it with "
            f"`surgery undo {place}` and apply both edits together"
        ) from error


def _met(
    checkpoint: Checkpoint,
    gates: Sequence[GateMatrix],
    edits: Sequence[Edit],
    journals: Sequence[StoredJournal],
) -> tuple[str, str] | None:
    """The journal and tensor of which edits meet rows, if they fit the original ones."""
    views = {gate.address: gate.view for gate in gates}
    met: list[tuple[str, str]] = []
    with Weights(checkpoint) as weights:
        read = rows_reader(weights, gates)

        def original(update: RowUpdate, rows: NDArray[np.int64]) -> Rows:
            content, view = read(update, rows), views[update.address]
            for stored in reversed(journals):
                for entry, before in stored.before(view):
                    _, here, there = np.intersect1d(rows, entry.row_numbers, return_indices=True)
                    content[here] = before[there]
                    if len(here):
                        met.append((stored.name, view.tensor))
            return content

        try:
            check_bases(edits, original)
        except EditMismatchError:
            return None
    return met[0] if met else None
