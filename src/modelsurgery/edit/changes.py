"""What edits do to rows: the only arithmetic that changes weights.

Every way of delivering an edit goes through here, so that memory and disk agree bit for bit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsurgery.checkpoint.layouts import Address
from modelsurgery.checkpoint.quantized import is_quantized, with_added
from modelsurgery.checkpoint.rows import ROW_DTYPES, Rows, holds, rounded, widened
from modelsurgery.edit.base_samples import check_same_model
from modelsurgery.edit.edit import (
    Edit,
    ReadRows,
    RowUpdate,
    by_matrix,
    canonical,
    rows_of,
    rows_sha256,
)
from modelsurgery.errors import EditMismatchError, RecipeError


@dataclass(frozen=True)
class TensorChange:
    """Rows of one matrix before and after all edits."""

    tensor: str  # name of the stored tensor
    address: Address  # which matrix of the model it is
    rows: NDArray[np.int64]  # [k] int64, ascending
    before: Rows  # [k, d] in the dtype that the sum was rounded to
    after: Rows  # [k, d] in the same dtype
    # Of quantized rows, how far the change arrived (see `Added`), [k, 3] float64.
    products: NDArray[np.float64] | None = None
    before_sha256: str | None = None  # hash of `before`, if it was made on the way

    @cached_property
    def bytes_moved(self) -> NDArray[np.int64]:
        """How many bytes of each row differ, [k]."""
        moved = self.before.view(np.uint8) != self.after.view(np.uint8)
        counts: NDArray[np.int64] = np.count_nonzero(moved, axis=1)
        return counts


def edited_rows(rows: Rows, delta: NDArray[np.float32]) -> tuple[Rows, NDArray[np.float64] | None]:
    """Add to rows: widen to f32, add once, round once to the rows' dtype.

    Args:
        rows: [k, d] in f32, bf16 or f16, or rows of quantized blocks.
        delta: [k, d] or [1, d] float32.

    Returns:
        The sums, and of quantized rows how far what is added arrived (see `Added`), [k, 3].

    Raises:
        RecipeError: a sum that the dtype cannot hold.
    """
    if is_quantized(rows.dtype):
        after, products = with_added(rows, delta)
        finite = np.isfinite(products)
    else:
        after, products = rounded(widened(rows) + delta, rows.dtype), None
        finite = np.isfinite(after)
    if not finite.all():
        name = rows.dtype.names[0] if rows.dtype.names else rows.dtype
        raise RecipeError(f"the edited rows overflow {name}; use a smaller strength")
    return after, products


def tensor_changes(
    edits: Sequence[Edit], read: ReadRows, *, is_dequantized: bool = False
) -> Iterator[TensorChange]:
    """Rows before and after all edits together, one matrix at a time.

    Several edits of one row are summed in f32 and rounded once, in an order that depends on
    what they are and not on how they were given. Rows with coefficient 0 are left alone. If rows of
    floats have the values of quantized ones (`is_dequantized`), they are not compared byte for
    byte.

    Raises:
        EditMismatchError: the rows are not those that an edit was made for, or two edits
            disagree about a matrix.
    """
    matrices = by_matrix(update for edit in edits for update in edit.updates)
    for address, updates in sorted(matrices.items()):
        for update in updates:
            if (update.shape, update.dtype) != (updates[0].shape, updates[0].dtype):
                raise EditMismatchError(
                    f"two edits disagree about the shape or dtype of {update.tensor};"
                    " they were made for different models"
                )
        named = rows_of(updates)
        content = read(updates[0], named)
        known = [_check_base(update, content, named, is_dequantized) for update in updates]
        rows, delta = _summed(updates)
        is_whole = len(rows) == len(named)
        if len(rows):
            before = content if is_whole else content[np.searchsorted(named, rows)]
            after, products = edited_rows(before, delta)
            hash_ = known[0] if is_whole else None
            yield TensorChange(updates[0].tensor, address, rows, before, after, products, hash_)


def check_bases(edits: Sequence[Edit], read: ReadRows, *, is_dequantized: bool = False) -> None:
    """Compare rows with those that edits were made for, as `tensor_changes` does first.

    Raises:
        EditMismatchError: they are not the same.
    """
    for update in (update for edit in edits for update in edit.updates):
        rows = update.rows.astype(np.int64)
        _check_base(update, read(update, rows), rows, is_dequantized)


def _summed(updates: Sequence[RowUpdate]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows with something to add, and what to add: [k, d], or [1, d] where it is all the same."""
    if len(updates) == 1:
        (only,) = updates
        rows, coefficients = only.rows.astype(np.int64), only.coefficients
        if not coefficients.all():
            rows, coefficients = rows[coefficients != 0], coefficients[coefficients != 0]
        if len(rows) and (coefficients == coefficients[0]).all():
            coefficients = coefficients[:1]
        return rows, coefficients[:, None] * only.direction
    ordered = sorted(updates, key=canonical)
    active = [update.coefficients != 0 for update in ordered]
    used = [update.rows[mask] for update, mask in zip(ordered, active, strict=True)]
    rows = np.unique(np.concatenate(used)).astype(np.int64)
    delta = np.zeros((len(rows), updates[0].shape[1]), dtype=np.float32)
    for update, mask in zip(ordered, active, strict=True):
        places = np.searchsorted(rows, update.rows[mask])
        delta[places] += update.coefficients[mask, None] * update.direction
    return rows, delta


def _check_base(
    update: RowUpdate, content: Rows, named: NDArray[np.int64], is_dequantized: bool
) -> str | None:
    """Compare rows with the hash of an update; the hash, if it is that of all of `content`."""
    same = len(named) == len(update.rows)
    rows = content if same else content[np.searchsorted(named, update.rows)]
    hash_, samples = update.base_rows_sha256, update.base_samples
    if hash_ is not None:  # else not bound, or made from values of a GGUF file, not its bytes
        stored = ROW_DTYPES[update.dtype]
        if content.dtype == stored and rows_sha256(rows) == hash_:
            return hash_ if same else None
        quantized = is_quantized(stored) or is_quantized(content.dtype)
        quantized |= is_dequantized and samples is not None
        # Else these are other bytes of what may be the same model: a narrower dtype lost the rest.
        has_all = not quantized and holds(content.dtype, stored)
        may_be = _is_exact(rows, stored, hash_) if has_all else not quantized or samples is not None
        if not may_be:
            raise EditMismatchError(
                f"the rows of {update.tensor} are not those that this edit was made for; this is "
                "another model, or it was edited already: use the model that the edit was made from"
            )
        if has_all:
            return None
    if samples is not None:
        check_same_model(
            update.tensor,
            widened(rows),
            samples,
            coefficients=update.coefficients,
            direction=update.direction,
        )
    return None


def _is_exact(rows: Rows, stored: np.dtype[Any], expected: str) -> bool:
    """Whether rows in a wider dtype are the very rows of a narrower one, by their hash."""
    wide = widened(rows)
    narrow = rounded(wide, stored)
    return np.array_equal(widened(narrow), wide) and rows_sha256(narrow) == expected
