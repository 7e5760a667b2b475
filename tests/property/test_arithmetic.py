"""Contracts 1 to 4: one arithmetic, order-free sums, nothing written for nothing.

What is expected is computed with torch, whose rounding is not ours.
"""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelsurgery.checkpoint.layouts import Address
from modelsurgery.checkpoint.rows import DTYPES, rounded, widened
from modelsurgery.edit.changes import edited_rows, tensor_changes
from modelsurgery.edit.edit import Edit, RowUpdate

TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
WIDTH, ROWS = 7, 11
ADDRESS = Address(0, "mlp", -1)
finite = st.floats(-4, 4, width=32)
seeds = st.integers(0, 2**31)


def random_rows(seed: int, dtype: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, WIDTH, generator=generator).to(TORCH[dtype])


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """The same bytes as numpy holds them."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def same_bytes(found: np.ndarray, expected: torch.Tensor) -> bool:
    return found.tobytes() == as_array(expected).tobytes()


def one_update(
    dtype: str, rows: list[int], coefficients: list[float], direction: np.ndarray
) -> Edit:
    update = RowUpdate(
        "gate",
        ADDRESS,
        (ROWS, WIDTH),
        dtype,
        np.array(rows, np.int32),
        np.array(coefficients, np.float32),
        direction.astype(np.float32),
    )
    return Edit((update,), 1.0, 1.0, ROWS)


@st.composite
def edits(draw: st.DrawFn, dtype: str) -> Edit:
    rows = sorted(draw(st.sets(st.integers(0, ROWS - 1), max_size=ROWS)))
    coefficients = draw(st.lists(finite, min_size=len(rows), max_size=len(rows)))
    direction = draw(st.lists(finite, min_size=WIDTH, max_size=WIDTH))
    return one_update(dtype, rows, coefficients, np.array(direction))


def applied(weights: torch.Tensor, chosen: list[Edit]) -> np.ndarray:
    base = as_array(weights)
    result = base.copy()
    for change in tensor_changes(chosen, lambda update, rows: base[rows]):
        result[change.rows] = change.after
    return result


@pytest.mark.parametrize("name", DTYPES)
@given(data=st.data(), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_a_row_is_widened_added_to_once_and_rounded_once(
    name: str, data: st.DataObject, seed: int
) -> None:
    weights = random_rows(seed, name)
    edit = data.draw(edits(name))
    update = edit.updates[0]
    expected = weights.clone()
    direction = torch.from_numpy(update.direction).double()
    for row, coefficient in zip(update.rows.tolist(), update.coefficients.tolist(), strict=True):
        if coefficient != 0:  # such a row is left alone, to the sign of its zeros
            vector = (coefficient * direction).float()  # the f32 product
            expected[row] = (weights[row].double() + vector.double()).float().to(weights.dtype)
    assert same_bytes(applied(weights, [edit]), expected)


@pytest.mark.parametrize("name", DTYPES)
@given(data=st.data(), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_the_order_of_several_edits_does_not_matter(
    name: str, data: st.DataObject, seed: int
) -> None:
    weights = random_rows(seed, name)
    chosen = data.draw(st.lists(edits(name), min_size=2, max_size=5))
    shuffled = data.draw(st.permutations(chosen))
    assert applied(weights, chosen).tobytes() == applied(weights, shuffled).tobytes()


@given(first=finite, second=finite, seed=seeds)
@settings(max_examples=60, deadline=None)
def test_several_edits_of_one_row_are_rounded_once(first: float, second: float, seed: int) -> None:
    weights = random_rows(seed, "BF16")
    direction = random_rows(seed + 1, "F32")[0]
    both = [one_update("BF16", [3], [value], direction.numpy()) for value in (first, second)]
    summed = torch.tensor(first).float() * direction + torch.tensor(second).float() * direction
    expected = (weights[3].float() + summed).to(torch.bfloat16)
    assert torch.equal(torch.from_numpy(widened(applied(weights, both)[3])), expected.float())


@given(data=st.data(), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_strength_zero_changes_no_row(data: st.DataObject, seed: int) -> None:
    weights = random_rows(seed, "F32")
    weights[0, 0] = -0.0  # adding 0.0 to it would change its bytes
    nothing = data.draw(edits("F32")).scaled(0.0)
    base = as_array(weights)
    assert list(tensor_changes([nothing], lambda update, rows: base[rows])) == []


@pytest.mark.parametrize("name", ["BF16", "F16"])
@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
@settings(max_examples=200, deadline=None)
def test_widening_and_rounding_are_those_of_torch_for_any_bits(name: str, bits: list[int]) -> None:
    values = np.array(bits, np.uint32).view(np.float32)
    values = values[np.isfinite(values)]
    ours = rounded(values, DTYPES[name])
    theirs = torch.from_numpy(values).to(TORCH[name])
    assert same_bytes(ours, theirs)
    assert same_bytes(widened(ours), theirs.float())


def test_torch_add_with_alpha_is_another_arithmetic() -> None:
    """Why `edited_rows` takes a precomputed vector: the fused form rounds differently."""
    rows = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    direction = torch.randn(64, generator=torch.Generator().manual_seed(1))
    delta = np.float32(1.08) * np.broadcast_to(direction.numpy(), (2000, 64))
    ours = torch.from_numpy(edited_rows(rows.numpy(), delta)[0])
    fused = torch.add(rows, direction, alpha=1.08)
    assert ours.allclose(fused, atol=1e-5)
    assert not ours.equal(fused)
