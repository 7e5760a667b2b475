"""ProFS, on pairs whose differences are known."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from modelsurgery import load_model
from modelsurgery.data.texts import LabeledText
from modelsurgery.rivals.intervention import Reweighted, matrix_of
from modelsurgery.rivals.method import Materials
from modelsurgery.rivals.profs import ProjectionFilter, rank_for, subspace
from tiny import write_tiny_model


def test_it_finds_planted_directions_beside_what_all_texts_have() -> None:
    random = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(12, 12, generator=random)).Q
    common, planted = axes[:, 0], axes[:, 1:3]
    opposite = 50 * common.expand(40, 12)
    amounts = torch.randn(40, 2, generator=random)
    along_common = 5 * torch.randn(40, 1, generator=random)
    noise = 0.01 * torch.randn(40, 12, generator=random)
    shows = opposite + amounts @ planted.T + along_common * common + noise
    found = subspace(shows, opposite, 2)
    torch.testing.assert_close(found.T @ found, torch.eye(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(found @ found.T, planted @ planted.T, atol=0.02, rtol=0)
    torch.testing.assert_close(found.T @ common, torch.zeros(2), atol=1e-5, rtol=0)


def test_mlps_of_the_upper_half_write_nothing_into_the_subspace(tmp_path: Path) -> None:
    model = load_model(write_tiny_model(tmp_path, num_hidden_layers=4))
    names = [
        ("rude", "kind"), ("bad", "good"), ("sad", "happy"), ("small", "big"), ("cries", "sings")
    ]  # fmt: skip
    shows = tuple(LabeledText(f"my dog is so {name}", 1, group=name) for name, _ in names)
    opposite = tuple(LabeledText(f"my dog is so {other}", 0, group=name) for name, other in names)
    nothing: Any = None
    given = Materials(model, nothing, shows, opposite[::-1], (), nothing, nothing)
    found = ProjectionFilter().fit(given)
    assert isinstance(found, Reweighted)
    assert [path.split(".")[2] for path in found.held] == ["2", "3"]
    assert all(path.endswith("down_proj") for path in found.held)
    assert found.touched == 2 * 32 * 48
    for path in found.held:
        matrix = matrix_of(model.model.get_submodule(path))
        before = matrix.clone()
        with found.applied(model, 1.0):
            lost = before - matrix
        with found.applied(model, 0.25):
            torch.testing.assert_close(before - matrix, lost / 4, atol=1e-6, rtol=0)
        assert int(torch.linalg.matrix_rank(lost, tol=1e-5)) == 2  # a small model
        # What is lost and what stays are at right angles.
        torch.testing.assert_close(lost.T @ (before - lost), torch.zeros(48, 48), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("count", "expected"), [(9e8, 2), (7e9, 10)])
def test_larger_models_lose_more_directions(count: float, expected: int) -> None:
    parameter = SimpleNamespace(numel=lambda: count)
    model: Any = SimpleNamespace(model=SimpleNamespace(parameters=lambda: [parameter]))
    assert rank_for(model) == expected
