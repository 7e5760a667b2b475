"""Contracts 1 to 4: one arithmetic, order-free sums, nothing written for nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelsurgery.edit import Edit, RowUpdate, edited_rows, tensor_changes

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
WIDTH, ROWS = 7, 11
finite = st.floats(-4, 4, width=32)
seeds = st.integers(0, 2**31)


def random_rows(seed: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, WIDTH, generator=generator).to(dtype)


@st.composite
def edits(draw: st.DrawFn, dtype: str) -> Edit:
    rows = sorted(draw(st.sets(st.integers(0, ROWS - 1), max_size=ROWS)))
    coefficients = draw(st.lists(finite, min_size=len(rows), max_size=len(rows)))
    direction = torch.tensor(draw(st.lists(finite, min_size=WIDTH, max_size=WIDTH)))
    update = RowUpdate(
        "gate",
        (ROWS, WIDTH),
        dtype,
        torch.tensor(rows, dtype=torch.int32),
        torch.tensor(coefficients, dtype=torch.float32),
        direction.float(),
    )
    return Edit((update,), 1.0, 1.0, ROWS)


def applied(weights: torch.Tensor, chosen: list[Edit]) -> torch.Tensor:
    result = weights.clone()
    for change in tensor_changes(chosen, lambda update, rows: weights[rows]):
        result[change.rows] = change.after
    return result


@pytest.mark.parametrize("name", DTYPES)
@given(data=st.data(), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_a_row_is_widened_added_to_once_and_rounded_once(
    name: str, data: st.DataObject, seed: int
) -> None:
    weights = random_rows(seed, DTYPES[name])
    edit = data.draw(edits(name))
    update = edit.updates[0]
    expected = weights.clone()
    for row, coefficient in zip(update.rows.tolist(), update.coefficients, strict=True):
        vector = (coefficient.double() * update.direction.double()).float()  # the f32 product
        expected[row] = (weights[row].double() + vector.double()).float().to(weights.dtype)
    assert applied(weights, [edit]).equal(expected)


@pytest.mark.parametrize("name", DTYPES)
@given(data=st.data(), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_the_order_of_several_edits_does_not_matter(
    name: str, data: st.DataObject, seed: int
) -> None:
    weights = random_rows(seed, DTYPES[name])
    chosen = data.draw(st.lists(edits(name), min_size=2, max_size=5))
    shuffled = data.draw(st.permutations(chosen))
    assert applied(weights, chosen).equal(applied(weights, shuffled))


@given(first=finite, second=finite, seed=seeds)
@settings(max_examples=60, deadline=None)
def test_several_edits_of_one_row_are_rounded_once(first: float, second: float, seed: int) -> None:
    weights = random_rows(seed, torch.bfloat16)
    direction = random_rows(seed + 1, torch.float32)[0]
    both = [
        Edit(
            (
                RowUpdate(
                    "gate",
                    (ROWS, WIDTH),
                    "BF16",
                    torch.tensor([3], dtype=torch.int32),
                    torch.tensor([value], dtype=torch.float32),
                    direction,
                ),
            ),
            1.0,
            1.0,
            ROWS,
        )
        for value in (first, second)
    ]
    summed = torch.tensor(first).float() * direction + torch.tensor(second).float() * direction
    expected = (weights[3].float() + summed).to(torch.bfloat16)
    assert applied(weights, both)[3].equal(expected)


@given(data=st.data(), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_strength_zero_changes_no_row(data: st.DataObject, seed: int) -> None:
    weights = random_rows(seed, torch.float32)
    weights[0, 0] = -0.0  # adding 0.0 to it would change its bytes
    nothing = data.draw(edits("F32")).scaled(0.0)
    assert list(tensor_changes([nothing], lambda update, rows: weights[rows])) == []


def test_torch_add_with_alpha_is_another_arithmetic() -> None:
    """Why `edited_rows` takes a precomputed vector: the fused form rounds differently."""
    rows = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    direction = torch.randn(64, generator=torch.Generator().manual_seed(1))
    ours = edited_rows(rows, (torch.tensor(1.08) * direction).expand_as(rows))
    fused = torch.add(rows, direction, alpha=1.08)
    assert ours.allclose(fused, atol=1e-5)
    assert not ours.equal(fused)
