"""What edits of one model do to each other, read off their numbers alone.

Edits add, so nothing is lost where they meet; but on rows that both touch, one may push along or
against the other's direction. With the Frobenius product ⟨A, B⟩ = Σ aᵢ·bᵢ·(dA·dB) over shared rows,
⟨A, B⟩ / ⟨A, A⟩ is the share of edit A that B adds to it (positive) or takes back (negative): exact
for the weights, a first-order prediction for the behavior.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsurgery.edit.edit import Edit, by_matrix
from modelsurgery.errors import EditMismatchError

STRONG = 0.1  # of an edit added or taken back by another one


@dataclass(frozen=True)
class Conflict:
    """Two edits of one model."""

    first: int  # number of the one edit, from 0, as they were given
    second: int  # number of the other
    cosine: float  # of their directions; of several, the pair that is most alike or most opposed
    rows: tuple[int, int]  # gate rows that each touches
    shared_rows: int  # gate rows that both touch
    first_changed: float  # share of the first edit that the second adds (+) or takes back (-)
    second_changed: float  # share of the second edit that the first adds or takes back

    @property
    def cosine_of_changes(self) -> float:
        """Of all that both add, with its sign: the one edit reversed gives the opposite."""
        square = self.first_changed * self.second_changed  # of ⟨A, B⟩ / (|A|·|B|)
        return math.copysign(math.sqrt(square), self.first_changed)

    @property
    def verdict(self) -> str:
        """In words: do they help, hinder or leave each other alone."""
        if self.shared_rows == 0:
            return "share no row"
        low, high = sorted((self.first_changed, self.second_changed))
        if low <= -STRONG:
            return "work against each other"
        return "strengthen each other" if high >= STRONG else "leave each other alone"


def conflicts_of(edits: Sequence[Edit]) -> tuple[Conflict, ...]:
    """Every pair of edits, in order.

    Raises:
        EditMismatchError: they are for models of different width.
    """
    found = []
    for (first, one), (second, other) in itertools.combinations(enumerate(edits), 2):
        product = _product(one, other)
        conflict = Conflict(
            first,
            second,
            _cosine(one, other),
            (one.row_count, other.row_count),
            one.row_count + other.row_count - (one + other).row_count,
            _share(product, _product(one, one)),
            _share(product, _product(other, other)),
        )
        found.append(conflict)
    return tuple(found)


def left_out(edits: Sequence[Edit]) -> tuple[int, ...]:
    """Numbers of the edits that were made on top of others which are not among these."""
    given = {edit.content_sha256 for edit in edits}
    return tuple(
        number
        for number, edit in enumerate(edits)
        if not set(edit.provenance.settings.get("on_top_of", ())) <= given
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _product(one: Edit, other: Edit) -> float:
    """Frobenius product of what two edits add."""
    matrices = by_matrix(other.updates)
    total = 0.0
    for update in one.updates:
        for met in matrices.get(update.address, ()):
            _, mine, theirs = np.intersect1d(
                update.rows, met.rows, assume_unique=True, return_indices=True
            )
            along = _dot(update.coefficients[mine], met.coefficients[theirs])
            total += along * _dot(update.direction, met.direction)
    return total


def _cosine(one: Edit, other: Edit) -> float:
    mine, theirs = (
        {update.direction.tobytes(): update.direction for update in edit.updates}.values()
        for edit in (one, other)
    )
    cosines = [
        _dot(first, second) / math.sqrt(_dot(first, first) * _dot(second, second))
        for first in mine
        for second in theirs
        if first.any() and second.any()
    ]
    return max(cosines, key=abs, default=0.0)


def _dot(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    if one.shape != other.shape:
        raise EditMismatchError(
            f"one edit has directions of {one.size} values, another of {other.size}; they are for "
            "different models"
        )
    return float(np.dot(one.astype(np.float64), other.astype(np.float64)))
