"""Rows are known by a few values: the same model in another type, with the edit, or another one."""

import numpy as np
import pytest
from numpy.typing import NDArray

from modelsurgery.edit.base_samples import check_same_model, samples_of
from modelsurgery.errors import EditMismatchError

ROWS, WIDTH = 24, 128
STEP = 0.3  # of four bits, in standard deviations of a row's values


def check(
    base: NDArray[np.float32], now: NDArray[np.float32], strength: float, seed: int = 0
) -> None:
    generator = np.random.default_rng([seed, 1])
    direction = generator.standard_normal(WIDTH).astype(np.float32)
    coefficients = np.full(len(base), strength, np.float32)
    check_same_model("gate", now, samples_of(base), coefficients=coefficients, direction=direction)


def rows(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((ROWS, WIDTH)).astype(np.float32)


def in_few_bits(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return (np.round(values / STEP) * STEP).astype(np.float32)


@pytest.mark.parametrize("strength", [1.0, 0.1, 0.01, 1e-3, 1e-5])
def test_quantized_rows_are_not_taken_for_edited_ones(strength: float) -> None:
    """What rounding does along a weak edit may be longer than the edit."""
    for seed in range(200):
        base = rows(seed)
        check(base, in_few_bits(base), strength, seed)
        check(in_few_bits(base), base, strength, seed)


@pytest.mark.parametrize("strength", [1.0, 0.3, 0.1])
def test_rows_that_have_the_edit_are_refused(strength: float) -> None:
    for seed in range(50):
        direction = np.random.default_rng([seed, 1]).standard_normal(WIDTH).astype(np.float32)
        edited = in_few_bits(rows(seed) + np.float32(strength) * direction)
        with pytest.raises(EditMismatchError, match="of this edit already"):
            check(rows(seed), edited, strength, seed)


def test_rows_of_another_model_are_refused() -> None:
    for seed in range(50):
        with pytest.raises(EditMismatchError, match="those of another model"):
            check(rows(seed), rows(seed + 1000), 0.1, seed)
        with pytest.raises(EditMismatchError, match="those of another model"):
            check(rows(seed), np.float32(2) * rows(seed), 0.1, seed)
