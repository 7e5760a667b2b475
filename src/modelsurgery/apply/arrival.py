"""How much of an edit arrives in rows whose values are few bits: achieved against wanted."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from modelsurgery.checkpoint.layouts import Address
from modelsurgery.checkpoint.rows import widened
from modelsurgery.edit.changes import TensorChange


@dataclass(frozen=True)
class Arrival:
    """What became of the changes of all edited rows of one element type.

    Attributes:
        arrives: the part of the achieved change along the wanted one, as a share of its length: 1
            is all of it.
        cosine: of the achieved change with the wanted one.
        length: length of the achieved change, as a share of that of the wanted one.

    Example:
        >>> Arrival(arrives=1.0, cosine=0.994, length=1.006).cosine
        0.994
    """

    arrives: float
    cosine: float
    length: float


def measure_arrival(
    changes: Iterable[TensorChange], type_of: Mapping[Address, str]
) -> dict[str, Arrival]:
    """Compare what changes do to rows with what was to be added to them, by element type.

    Args:
        changes: rows before and after.
        type_of: element type of each matrix.
    """
    sums: dict[str, list[float]] = {}
    for change in changes:
        total = sums.setdefault(type_of[change.address], [0.0, 0.0, 0.0])
        for number, value in enumerate(_products(change)):
            total[number] += value
    return {
        dtype: Arrival(
            arrives=both / wanted,
            cosine=both / math.sqrt(achieved * wanted) if achieved else 0.0,
            length=math.sqrt(achieved / wanted),
        )
        for dtype, (both, achieved, wanted) in sorted(sums.items())
    }


def _products(change: TensorChange) -> Iterator[float]:
    """Achieved with wanted, achieved with itself, wanted with itself."""
    achieved = (widened(change.after) - widened(change.before)).astype(np.float64)
    wanted = np.broadcast_to(change.delta, achieved.shape).astype(np.float64)
    for one, other in ((achieved, wanted), (achieved, achieved), (wanted, wanted)):
        yield float(np.einsum("ij,ij->", one, other))
