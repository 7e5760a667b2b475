"""How much of an edit arrives in rows whose values are few bits: achieved against wanted."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


class ArrivalSums:
    """Sums over edited rows, by element type, while changes pass by."""

    def __init__(self) -> None:
        """Begin with none."""
        self._sums: dict[str, NDArray[np.float64]] = {}

    def watched(self, changes: Iterable[TensorChange]) -> Iterator[TensorChange]:
        """The same changes; what arrives of those of quantized rows is summed up."""
        for change in changes:
            if change.products is not None:
                dtype = str((change.after.dtype.names or ("",))[0])
                total = self._sums.setdefault(dtype, np.zeros(3))
                total += change.products.sum(axis=0)
            yield change

    def by_type(self) -> dict[str, Arrival]:
        """What arrived, by the name of the type; of types whose rows are quantized."""
        return {
            dtype: Arrival(
                arrives=float(both / wanted),
                cosine=float(both / math.sqrt(achieved * wanted)) if achieved else 0.0,
                length=math.sqrt(achieved / wanted),
            )
            for dtype, (both, achieved, wanted) in sorted(self._sums.items())
        }
