"""An edit in the terms of the rule that made it: what each row and layer was expected to give."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsurgery.checkpoint.layouts import Address
from modelsurgery.edit.edit import Edit, by_matrix, rows_of
from modelsurgery.edit.effects import Measurement
from modelsurgery.errors import RecipeError

MOST_ROWS = 20


@dataclass(frozen=True)
class ExplainedRow:
    """What a rule expects of one gate row."""

    layer: int  # 1..L
    branch: str  # which MLP of the block, as its layout calls it
    expert: int | None  # which expert; None where there are none
    row: int  # number of the row, from 0
    coefficients: tuple[float, ...]  # what it gets of each of its matrix's directions
    # Predicted rise of the loss on behavior texts over that on their opposites, nats a token.
    gain: float
    divergence: float  # the price, predicted KL of this row's change alone, nats per token
    share: float  # of the edit's predicted gain


@dataclass(frozen=True)
class ExplainedLayer:
    """What a rule expects of the chosen rows of a layer."""

    layer: int  # 1..L
    rows: int  # chosen rows
    gain: float  # sum of theirs
    divergence: float  # sum of theirs
    share: float  # of the edit's predicted gain


@dataclass(frozen=True)
class Explanation:
    """What a rule expects of an edit."""

    gain: float  # sum over rows, to first order
    divergence: float  # sum over rows, which are taken as independent
    # On the texts that the strength was chosen on; None where that was not measured.
    measured: Measurement | None
    layers: tuple[ExplainedLayer, ...]  # those with chosen rows, in order
    # Those with the highest gain in the sense of the edit, best first.
    rows: tuple[ExplainedRow, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "predicted": {"gain": self.gain, "divergence": self.divergence},
            "measured": None if self.measured is None else self.measured.to_json(),
            "by_layer": [asdict(layer) for layer in self.layers],
            "rows": [asdict(row) for row in self.rows],
        }


def explain(edit: Edit, most_rows: int = MOST_ROWS) -> Explanation | None:
    """What the rule expected of an edit; None of a rule that predicts nothing, and of sums.

    At most so many rows are told one by one.
    """
    matrices = _matrices(edit)
    if not matrices:
        return None
    gain = sum(float(one.gains.sum()) for one in matrices)
    sign = -1.0 if gain < 0 else 1.0
    rows = sorted(
        (-sign * float(each), number, place)
        for number, one in enumerate(matrices)
        for place, each in enumerate(one.gains)
    )
    return Explanation(
        gain,
        sum(float(one.prices.sum()) for one in matrices),
        edit.measured,
        _layers(matrices, gain),
        tuple(matrices[number].row(place, gain) for _, number, place in rows[:most_rows]),
    )


def strongest_direction(edit: Edit) -> NDArray[np.float32]:
    """The direction of the update that adds most, in the sum of squares, [d] float32.

    Raises:
        RecipeError: the edit has no updates.
    """
    if not edit.updates:
        raise RecipeError("the edit changes no row, so it has no direction")
    sizes = [
        float(np.square(one.coefficients).sum()) * float(np.square(one.direction).sum())
        for one in edit.updates
    ]
    return edit.updates[int(np.argmax(sizes))].direction


@dataclass(frozen=True)
class _Matrix:
    """Chosen rows [n] of a matrix with coefficients [k, n], gains [n] and prices [n]."""

    address: Address
    rows: NDArray[np.int64]
    coefficients: NDArray[np.float32]
    gains: NDArray[np.float64]
    prices: NDArray[np.float64]

    def row(self, place: int, whole: float) -> ExplainedRow:
        """One of the rows."""
        gain = float(self.gains[place])
        return ExplainedRow(
            self.address.block + 1,
            self.address.branch,
            None if self.address.expert < 0 else self.address.expert,
            int(self.rows[place]),
            tuple(float(one) for one in self.coefficients[:, place]),
            gain,
            float(self.prices[place]),
            _share(gain, whole),
        )


def _matrices(edit: Edit) -> list[_Matrix]:
    """Each matrix with its rows; none where an update lacks predictions."""
    if any(update.predicted is None for update in edit.updates):
        return []
    found = []
    for address, updates in sorted(by_matrix(edit.updates).items()):
        rows = rows_of(updates)
        coefficients = np.zeros((len(updates), len(rows)), np.float32)
        gains, prices = np.zeros(len(rows)), np.zeros(len(rows))
        for number, update in enumerate(updates):
            assert update.predicted is not None  # or there were none
            places = np.searchsorted(rows, update.rows)
            coefficients[number, places] = update.coefficients
            gains[places] += update.predicted.gains
            prices[places] += update.predicted.prices
        found.append(_Matrix(address, rows, coefficients, gains, prices))
    return found


def _layers(matrices: Sequence[_Matrix], whole: float) -> tuple[ExplainedLayer, ...]:
    found = []
    for block, some in groupby(matrices, key=lambda one: one.address.block):
        here = list(some)
        gain = sum(float(one.gains.sum()) for one in here)
        price = sum(float(one.prices.sum()) for one in here)
        rows = sum(len(one.rows) for one in here)
        found.append(ExplainedLayer(block + 1, rows, gain, price, _share(gain, whole)))
    return tuple(found)


def _share(gain: float, whole: float) -> float:
    return gain / whole if whole else 0.0
