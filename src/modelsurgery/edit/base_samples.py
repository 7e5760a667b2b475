"""What an edit remembers of the rows that it was made for, to know them when they are quantized.

The hash of rows proves that they are the same bytes. The same model in another type, or quantized
by another program, has other bytes, and rows that point the same way. An edit therefore carries a
few values of each row. Between a model and its quantized forms their cosine is over 0.95 even at
two bits, between two models it is about 0 (docs/guides/gguf.md has the figures). A model that was
fine-tuned from the other passes: its rows hardly moved.
"""

import numpy as np
from numpy.typing import NDArray

from modelsurgery.errors import EditMismatchError

LEAST_COSINE = 0.9
LARGEST_RATIO = 1.25  # of the lengths of both
HALF = 0.5  # of an edit: rows with more have it
SURE = 5  # standard errors
A_ROW, AN_UPDATE = 8, 256  # samples at least
LARGEST = float(np.finfo(np.float16).max)

Samples = NDArray[np.float16]


def samples_of(rows: NDArray[np.float32]) -> Samples:
    """A few values of each row [k, d], at places that depend on k and d alone: [k, s] float16."""
    count, width = rows.shape
    size = min(width, max(A_ROW, -(-AN_UPDATE // max(count, 1))))
    values = np.take_along_axis(rows, _places(count, size, width), axis=1)
    return np.clip(values, -LARGEST, LARGEST).astype(np.float16)


def check_same_model(
    tensor: str,
    rows: NDArray[np.float32],
    samples: Samples,
    *,
    coefficients: NDArray[np.float32],
    direction: NDArray[np.float32],
) -> None:
    """Compare rows [k, d] of a tensor with the samples [k, s] that an update carries.

    The update adds `direction` [d] times `coefficients` [k].

    Raises:
        EditMismatchError: they are rows of another model, or have the edit already.
    """
    if not samples.size:
        return
    count, size = samples.shape
    places = _places(count, size, rows.shape[1])
    before = samples.astype(np.float64)
    now = np.take_along_axis(rows, places, axis=1).astype(np.float64)
    wanted = coefficients.astype(np.float64)[:, None] * direction[places]
    there = _part_there(now - before, wanted)
    if there > HALF:
        raise EditMismatchError(
            f"the rows of {tensor} have {there:.0%} of this edit already; undo it first"
        )
    lengths = float(np.linalg.norm(before)), float(np.linalg.norm(now))
    cosine = float((before * now).sum()) / max(lengths[0] * lengths[1], 1e-300)
    ratio = max(lengths) / max(min(lengths), 1e-300)
    if not (cosine >= LEAST_COSINE and ratio <= LARGEST_RATIO):  # NaN is refused too
        raise EditMismatchError(
            f"the rows of {tensor} are those of another model: their cosine with the rows "
            f"that this edit was made for is {cosine:.2f}, expected {LEAST_COSINE} or more; use "
            "the same model, quantized or not"
        )


def _part_there(difference: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    """How much of an edit is in a difference; 0 unless it is told from what rounding does.

    The coefficient of a regression of all values, and its standard error: what rounding does along
    a weak edit may be longer than the edit.
    """
    square = max(float((wanted**2).sum()), 1e-300)
    part = float((difference * wanted).sum()) / square
    rest = float(((difference - part * wanted) ** 2).sum())
    error = float(np.sqrt(rest / (wanted.size * square)))
    return part if part > SURE * error else 0.0


def _places(count: int, size: int, width: int) -> NDArray[np.int64]:
    """Columns of the samples of each row: evenly spaced, from another one on in each row."""
    even = np.arange(size) * width // max(size, 1)
    return (even + 7919 * np.arange(count)[:, None]) % width
