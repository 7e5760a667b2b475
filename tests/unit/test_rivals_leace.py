"""LEACE: no linear regression tells the labels afterwards, and no smaller change does that."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelsurgery import load_model
from modelsurgery.data.texts import LabeledText
from modelsurgery.rivals.leace import LeastSquaresErasure, Moments, eraser
from modelsurgery.rivals.method import Materials
from modelsurgery.rivals.states import block_outputs
from tiny import write_tiny_model


def labeled_states(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(7, 7, generator=random)
    shows = torch.randn(300, 7, generator=random) @ mixing + 2
    return shows + torch.randn(7, generator=random), torch.randn(500, 7, generator=random) @ mixing


def test_nothing_linear_tells_the_labels_apart() -> None:
    shows, opposite = labeled_states()
    found = eraser(Moments.of(shows), Moments.of(opposite))
    erased = torch.cat([found(shows, 1.0), found(opposite, 1.0)]).double().numpy()
    labels = np.repeat([1.0, 0.0], [300, 500])
    cross = (labels - labels.mean()) @ (erased - erased.mean(0)) / len(labels)
    np.testing.assert_allclose(cross, 0, atol=1e-5)
    design = np.column_stack([erased, np.ones(800)])
    # Rank 6 is left, and what float32 leaves beside it is no evidence.
    weights = np.linalg.lstsq(design, labels, rcond=1e-5)[0]
    np.testing.assert_allclose(design @ weights, labels.mean(), atol=1e-4)
    np.testing.assert_allclose(erased.mean(0), torch.cat([shows, opposite]).mean(0), atol=1e-5)


def test_the_change_is_the_least_one() -> None:
    shows, opposite = labeled_states(1)
    found = eraser(Moments.of(shows), Moments.of(opposite))
    states = torch.cat([shows, opposite]).double().numpy()
    labels = np.repeat([1.0, 0.0], [300, 500])
    centered = states - states.mean(0)
    covariance = centered.T @ centered / 800
    cross = centered.T @ (labels - labels.mean()) / 800
    # Each row p of the map has the least variance of x_i - p·x under p·cross = 0 (Lagrange).
    system = np.zeros((8, 8))
    system[:7, :7], system[:7, 7], system[7, :7] = covariance, cross, cross
    target = np.vstack([covariance, np.zeros(7)])
    expected = states.mean(0) + centered @ np.linalg.solve(system, target)[:7]
    np.testing.assert_allclose(found(torch.tensor(states).float(), 1.0), expected, atol=1e-4)


def test_strength_erases_a_share() -> None:
    shows, opposite = labeled_states()
    found = eraser(Moments.of(shows), Moments.of(opposite))
    half, whole = (found(shows, strength) - shows for strength in (0.5, 1.0))
    torch.testing.assert_close(half, whole / 2, atol=1e-5, rtol=0)
    assert torch.equal(found(shows, 0.0), shows)


def test_states_in_a_subspace_are_erased_inside_it() -> None:
    shows, opposite = (torch.nn.functional.pad(one, (0, 2)) for one in labeled_states())
    found = eraser(Moments.of(shows), Moments.of(opposite))
    assert found(shows, 1.0)[:, 7:].abs().max() == 0
    torch.testing.assert_close(found(shows, 1.0).mean(0), found(opposite, 1.0).mean(0))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_labels_are_erased_behind_every_block(family: str, tmp_path: Path) -> None:
    model = load_model(write_tiny_model(tmp_path, family))
    names = ("dog", "cat", "friend", "neighbor", "house", "tree", "rain", "sun")
    shows, opposite = (
        tuple(
            LabeledText(f"the {name} is {one} and very {other}", label)
            for name in names
            for one, other in zip(words, words[::-1], strict=True)
        )
        for label, words in ((1, ["rude", "bad", "sad"]), (0, ["kind", "good", "happy"]))
    )
    nothing: Any = None
    given = Materials(model, nothing, shows, opposite, (), nothing, nothing)
    found = LeastSquaresErasure().fit(given)
    assert found.touched == 3 * 3 * 32
    gaps = []
    for strength in (0.0, 1.0):
        with found.applied(model, strength):
            means = [
                [
                    torch.cat([some.tokens(layer) for some in read]).double().mean(0)
                    for layer in (1, 2, 3)
                ]
                for texts in (shows, opposite)
                for read in [list(block_outputs(model, given.read(texts), [1, 2, 3]))]
            ]
        gaps.append([float((one - other).norm()) for one, other in zip(*means, strict=True)])
    assert min(gaps[0]) > 1e-3
    assert max(gaps[1]) < 1e-5
