from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modelsurgery import (
    Region,
    RowScores,
    find_gate_matrices,
    open_checkpoint,
    score_rows,
    select_region,
)
from modelsurgery.edit.region import PAPER_ROWS, row_count
from modelsurgery.errors import CheckpointError, RecipeError
from tiny import write_tiny_model

DIRECTION = torch.randn(32, generator=torch.Generator().manual_seed(3))


def scores(directory: Path, direction: torch.Tensor = DIRECTION) -> RowScores:
    checkpoint = open_checkpoint(directory)
    return score_rows(checkpoint, find_gate_matrices(checkpoint), direction.reshape(-1, 32))


def chosen(region: Region) -> set[tuple[int, int]]:
    pairs = zip(region.gates, region.rows, strict=True)
    return {(gate.block, int(row)) for gate, rows in pairs for row in rows}


def all_gate_rows(directory: Path) -> torch.Tensor:
    tensors = load_file(directory / "model.safetensors")
    return torch.stack([tensors[f"model.layers.{n}.mlp.gate_proj.weight"] for n in range(3)])


def test_the_region_is_the_most_opposed_rows_of_all_layers(tiny_llama: Path) -> None:
    rows = all_gate_rows(tiny_llama)
    cosines = torch.nn.functional.cosine_similarity(rows, DIRECTION, dim=-1)
    lowest = cosines.flatten().argsort()[:20].tolist()
    region = select_region(scores(tiny_llama), 20)
    assert chosen(region) == {(place // 48, place % 48) for place in lowest}
    assert region.row_count == 20
    assert region.candidate_rows == 144
    expected = torch.cat(
        [cosines[gate.block][rows] for gate, rows in zip(region.gates, region.rows, strict=True)]
    )
    found = torch.from_numpy(np.concatenate(region.scores))
    torch.testing.assert_close(found, expected)


def test_strength_is_measured_in_mean_row_norms(tiny_llama: Path) -> None:
    expected = all_gate_rows(tiny_llama).norm(dim=-1).mean().item()
    assert scores(tiny_llama).mean_row_norm == pytest.approx(expected, rel=1e-6)


def test_the_length_of_the_direction_does_not_matter(tiny_llama: Path) -> None:
    one = select_region(scores(tiny_llama), 30)
    other = select_region(scores(tiny_llama, DIRECTION * 1000), 30)
    assert chosen(one) == chosen(other)


def test_several_directions_are_scored_in_one_pass(tiny_llama: Path) -> None:
    both = scores(tiny_llama, torch.stack([DIRECTION, -DIRECTION]))
    aligned = select_region(scores(tiny_llama), 10, selection="aligned")
    assert chosen(select_region(both, 10, direction_index=1)) == chosen(aligned)


def test_a_window_counts_layers_from_one_and_both_ends(tiny_llama: Path) -> None:
    region = select_region(scores(tiny_llama), 60, layers=(2, 3))
    assert {block for block, _ in chosen(region)} == {1, 2}
    with pytest.raises(RecipeError, match="within 1-3"):
        select_region(scores(tiny_llama), 5, layers=(0, 2))
    with pytest.raises(RecipeError, match="the chosen layers have 48"):
        select_region(scores(tiny_llama), 60, layers=(2, 2))


def test_ties_are_broken_by_matrix_and_row() -> None:
    with_ties = RowScores(
        gates=tuple(FAKE_GATES),
        cosines=tuple(np.zeros((1, 4), np.float32) for _ in range(2)),
        mean_row_norm=1.0,
    )
    assert chosen(select_region(with_ties, 5)) == {(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)}


def test_random_rows_depend_on_the_seed_alone(tiny_llama: Path) -> None:
    table = scores(tiny_llama)
    one, same, other = (
        chosen(select_region(table, 20, selection="random", seed=seed)) for seed in (1, 1, 2)
    )
    assert one == same != other


@pytest.mark.parametrize(
    ("rows", "count"), [(1, 1), (144, 144), (1.0, 144), (PAPER_ROWS, 7), (0.001, 1)]
)
def test_rows_are_a_share_or_a_count(rows: float | int, count: int) -> None:
    assert row_count(rows, 144, 144) == count


@pytest.mark.parametrize("rows", [0, -3, 145, 0.0, -0.5, 1.5, float("nan")])
def test_impossible_rows_are_refused(rows: float | int) -> None:
    with pytest.raises(RecipeError, match="rows"):
        row_count(rows, 144, 144)


def test_a_zero_direction_and_one_of_another_width_are_refused(tiny_llama: Path) -> None:
    checkpoint = open_checkpoint(tiny_llama)
    gates = find_gate_matrices(checkpoint)
    with pytest.raises(RecipeError, match="direction is zero"):
        score_rows(checkpoint, gates, torch.zeros(1, 32))
    with pytest.raises(RecipeError, match="made for another model"):
        score_rows(checkpoint, gates, torch.ones(1, 31))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_row(tmp_path: Path, value: float) -> None:
    base = write_tiny_model(tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.1.mlp.gate_proj.weight"][7, 3] = value
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"row 7 of model\.layers\.1\.mlp"):
        scores(base)


def _fake_gates() -> list[object]:
    from modelsurgery import GateMatrix
    from modelsurgery.checkpoint.rows import RowView

    return [GateMatrix(RowView(f"gate.{block}", "F32", 4, 2, 0, 2, 1), block) for block in range(2)]


FAKE_GATES = _fake_gates()
