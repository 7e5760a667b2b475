"""Which rows of another edit are most like the neurons of this one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsurgery.checkpoint.rows import Weights, widened
from modelsurgery.edit.edit import Edit, by_matrix, rows_of, rows_reader
from modelsurgery.interpret.activity import Neuron
from modelsurgery.model.language_model import LanguageModel


@dataclass(frozen=True)
class Neighbor:
    """A neuron, and the row of another edit whose base row is most like its own."""

    layer: int  # 1..L
    row: int
    is_shared: bool  # whether the other edit changes this very row, too
    other_layer: int  # of the nearest other row
    other_row: int
    cosine: float  # of the two rows, before any edit


def nearest_rows(
    model: LanguageModel, neurons: Sequence[Neuron], other: Edit
) -> tuple[Neighbor, ...]:
    """For each neuron the row of another edit, not its own, whose cosine with it is highest.

    Rows are those of the checkpoint, read a matrix at a time; equal cosines go to the first row.

    Raises:
        EditMismatchError: the other edit is for another model.
    """
    mine = _units(_base_rows(model, neurons))
    best = np.full(len(neurons), -np.inf)
    places: list[Neuron | None] = [None] * len(neurons)
    updates = by_matrix(update for update in other.updates if len(update.rows))
    touched = {address: rows_of(some) for address, some in updates.items()}
    with Weights(model.checkpoint) as weights:
        read = rows_reader(weights, model.gates)
        for address, rows in sorted(touched.items()):
            cosines = mine @ _units(widened(read(updates[address][0], rows))).T
            for number, (place, row) in enumerate(neurons):
                if place == address:
                    cosines[number, rows == row] = -np.inf
                highest = int(cosines[number].argmax())
                if cosines[number, highest] > best[number]:
                    best[number] = cosines[number, highest]
                    places[number] = (address, int(rows[highest]))
    return tuple(
        Neighbor(
            neuron[0].block + 1,
            neuron[1],
            bool(neuron[0] in touched and neuron[1] in touched[neuron[0]]),
            place[0].block + 1,
            place[1],
            float(cosine),
        )
        for neuron, place, cosine in zip(neurons, places, best, strict=True)
        if place is not None
    )


def _base_rows(model: LanguageModel, neurons: Sequence[Neuron]) -> NDArray[np.float32]:
    gates = {gate.address: gate for gate in model.gates}
    with Weights(model.checkpoint) as weights:
        rows = [
            widened(weights.read(gates[address].view, np.array([row])))[0]
            for address, row in neurons
        ]
    return np.stack(rows)


def _units(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    units: NDArray[np.float32] = rows / np.maximum(norms, np.finfo(np.float32).tiny)
    return units
