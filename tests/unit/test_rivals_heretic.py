"""Heretic's kernel, against arithmetic by hand."""

from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from modelsurgery import load_model
from modelsurgery.rivals.heretic import Kernel, Setting, suggest
from modelsurgery.rivals.intervention import matrix_of
from modelsurgery.rivals.places import attention_out, block_paths, mlp_out
from tiny import write_tiny_model


def test_weights_fall_linearly_from_the_peak_and_end_at_the_reach() -> None:
    kernel = Kernel(highest=1.2, peak=3.5, lowest=0.2, reach=2.5)
    found = [kernel.weight(block) for block in range(8)]
    assert found == pytest.approx([0, 0.2, 0.6, 1.0, 1.0, 0.6, 0.2, 0])


def test_a_direction_between_two_blocks_is_interpolated() -> None:
    directions = torch.eye(3)
    kernels: dict[str, Kernel] = {}
    found = Setting(1.25, kernels).direction_for(directions, 0)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.75, 0.25]) / (0.75**2 + 0.25**2) ** 0.5)
    assert Setting(2.0, kernels).direction_for(directions, 0).tolist() == [0, 0, 1]
    assert Setting(None, kernels).direction_for(directions, 1).tolist() == [0, 1, 0]


def test_each_matrix_loses_its_own_share(tmp_path: Path) -> None:
    model = load_model(write_tiny_model(tmp_path))
    directions = torch.nn.functional.normalize(
        torch.randn(3, 32, generator=torch.Generator().manual_seed(0)), dim=1
    )
    kernels = {"attention": Kernel(1.0, 2.0, 0.5, 1.0), "mlp": Kernel(1.4, 1.0, 0.0, 0.5)}
    found = Setting(None, kernels).intervention(model, directions)
    weights: dict[str, float] = {}
    for block, attention, mlp in zip(
        block_paths(model), (0.0, 0.5, 1.0), (0.0, 1.4, 0.0), strict=True
    ):
        weights |= {attention_out(model, block): attention, mlp_out(model, block): mlp}

    def matrices() -> dict[str, torch.Tensor]:
        return {path: matrix_of(model.model.get_submodule(path)).clone() for path in weights}

    before = matrices()
    with found.applied(model, 0.5):
        after = matrices()
    for number, (path, weight) in enumerate(weights.items()):
        direction = directions[number // 2].double()
        expected = (
            torch.eye(32, dtype=torch.float64) - 0.5 * weight * torch.outer(direction, direction)
        ) @ before[path].double()
        torch.testing.assert_close(after[path].double(), expected, atol=1e-6, rtol=0)
    assert sorted(found.held) == sorted(path for path, weight in weights.items() if weight)
    assert found.touched == 32 * 32 * 2 + 32 * 48


def test_settings_lie_in_the_published_ranges() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    scopes = set()
    for _ in range(50):
        trial: Any = study.ask()
        found = suggest(trial, last=29)
        scopes.add(found.direction is None)
        assert found.direction is None or 0.4 * 29 <= found.direction <= 0.9 * 29
        for kernel in found.kernels.values():
            assert 0.8 <= kernel.highest <= 1.5
            assert 0.6 * 29 <= kernel.peak <= 29
            assert 0 <= kernel.lowest <= kernel.highest
            assert 1 <= kernel.reach <= 0.6 * 29
        study.tell(trial, 0.0)
    assert scopes == {True, False}
    assert suggest(study.best_trial, last=29) == suggest(study.best_trial, last=29)
