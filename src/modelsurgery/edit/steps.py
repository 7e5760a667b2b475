"""Joining the steps of a rule to one edit."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from modelsurgery.checkpoint.layouts import Address
from modelsurgery.edit.edit import Edit, RowUpdate, by_matrix, rows_of
from modelsurgery.edit.effects import Prediction


def join_steps(first: Edit, second: Edit) -> Edit:
    """One edit of two steps in the same model: updates along the same direction become one.

    `second` has the sign of `first`, whose strength has the unit that the sum's is told in. What a
    rule predicts of a row adds up: gains as they are, and the roots of prices, which are squares of
    what is added.
    """
    merged: dict[tuple[Address, bytes], RowUpdate] = {}
    for update in (*first.updates, *second.updates):
        key = update.address, update.direction.tobytes()
        merged[key] = _merged(merged[key], update) if key in merged else update
    updates = tuple(sorted(merged.values(), key=lambda one: one.address))
    unit = _size(first.updates) / abs(first.strength)
    strength = float(np.copysign(_size(updates) / unit, first.strength))
    factor = strength / first.strength
    return replace(
        first, updates=updates, strength=strength, alpha=first.alpha * factor, measured=None
    )


def _merged(one: RowUpdate, two: RowUpdate) -> RowUpdate:
    """Two updates of a matrix along the same direction as one."""
    rows = rows_of((one, two))
    coefficients, gains, roots = np.zeros((3, len(rows)), np.float32)
    for update in (one, two):
        places = np.searchsorted(rows, update.rows)
        coefficients[places] += update.coefficients
        if update.predicted is not None:
            gains[places] += update.predicted.gains
            root = np.sqrt(np.maximum(update.predicted.prices, 0))
            roots[places] += np.sign(update.coefficients) * root
    is_predicted = one.predicted is not None and two.predicted is not None
    return replace(
        one,
        rows=rows.astype(np.int32),
        coefficients=coefficients,
        predicted=Prediction(gains, np.square(roots)) if is_predicted else None,
        base_rows_sha256=None,
        base_samples=None,
    )


def _size(updates: Sequence[RowUpdate]) -> float:
    """Root mean square of what is added to the rows."""
    total, count = 0.0, 0
    for some in by_matrix(updates).values():
        rows = rows_of(some)
        added = np.zeros((len(rows), some[0].shape[1]))
        for one in some:
            added[np.searchsorted(rows, one.rows)] += np.outer(one.coefficients, one.direction)
        total, count = total + float(np.square(added).sum()), count + len(rows)
    return float(np.sqrt(total / max(count, 1)))
