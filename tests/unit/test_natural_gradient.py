"""The arithmetic of the natural-gradient rule, against numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from modelsurgery.model.activations.moments import DenseMoment
from modelsurgery.model.activations.statistics import Gains
from modelsurgery.rules.contrast import Contrast, TextKind
from modelsurgery.rules.natural_gradient import (
    PROBING_DIVERGENCE,
    ROW_DAMPING,
    SiteSlopes,
    agreement_of_folds,
    priced,
    site_slopes,
    solve_rows,
    whitened_directions,
)
from modelsurgery.rules.proposing import direction_weights

Array = NDArray[np.float64]
FOLDS, EXPERTS, ROWS = 5, 2, 40


def positive(generator: Generator, size: int) -> Array:
    factor = generator.normal(size=(size, size + 3))
    return np.asarray(factor @ factor.T / size)


def slopes_of(folds: Array, generator: Generator) -> SiteSlopes:
    """A site whose folds have as many tokens each."""
    total = folds.sum(0)
    return SiteSlopes(
        total / len(folds),
        folds,
        (total - folds) / (len(folds) - 1),
        generator.uniform(0.5, 2, folds.shape[2:]),
        positive(generator, folds.shape[1]),
    )


def some_site(directions: int) -> SiteSlopes:
    generator = np.random.default_rng(directions)
    return slopes_of(generator.normal(size=(FOLDS, directions, EXPERTS, ROWS)), generator)


def test_a_whitened_direction_solves_for_the_difference_of_means() -> None:
    generator = np.random.default_rng(0)
    moment, means = positive(generator, 6), generator.normal(size=(3, 6))
    weights = [[1.0, -0.5, -0.5], [0.0, 1.0, -1.0]]
    known = DenseMoment(torch.tensor(moment))
    found = whitened_directions(known, torch.tensor(means), weights, damping=0.3)
    damped = moment + 0.3 * np.trace(moment) / 6 * np.eye(6)
    for direction, row in zip(found.numpy(), weights, strict=True):
        expected = np.linalg.solve(damped, np.asarray(row) @ means)
        np.testing.assert_allclose(direction, expected / np.linalg.norm(expected), rtol=1e-5)


def test_a_direction_is_silent_where_neutral_text_is_loud() -> None:
    moment, means = torch.diag(torch.tensor([100.0, 1.0])), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    (found,) = whitened_directions(DenseMoment(moment), means, [[1.0, -1.0]], damping=1e-6)
    torch.testing.assert_close(found[0] / found[1], torch.tensor(0.01), rtol=1e-3, atol=0)


@pytest.mark.parametrize("directions", [1, 2, 3])
def test_rows_are_solved_one_by_one(directions: int) -> None:
    known = some_site(directions)
    found = solve_rows(known.whole, known, added=0.7)
    for expert, row in np.ndindex(EXPERTS, ROWS):
        price = known.squares[expert, row] * known.overlap + 0.7 * np.eye(directions)
        expected = np.linalg.solve(price, known.whole[:, expert, row])
        np.testing.assert_allclose(found[:, expert, row], expected, rtol=1e-9)


@pytest.mark.parametrize("directions", [1, 2])
def test_the_predicted_divergence_is_half_the_quadratic_form(directions: int) -> None:
    known = some_site(directions)
    coefficients = np.random.default_rng(9).normal(size=(directions, EXPERTS, ROWS))
    found = priced(coefficients, known)
    for expert, row in np.ndindex(EXPERTS, ROWS):
        some = coefficients[:, expert, row]
        expected = some @ (known.squares[expert, row] * known.overlap) @ some / 2
        np.testing.assert_allclose(found[:, expert, row].sum(), expected, rtol=1e-9)


def test_slopes_are_means_over_tokens_weighted_by_kind() -> None:
    generator = np.random.default_rng(4)
    tokens = generator.integers(1, 9, size=(2, FOLDS)).astype(float)
    each = generator.normal(size=(2, FOLDS, 1, 1, ROWS))
    sums = each * tokens[:, :, None, None, None]
    directions, moment = generator.normal(size=(1, 6)), positive(generator, 6)
    squares = torch.ones(1, ROWS, dtype=torch.float64)
    found = site_slopes(
        Gains({"gate": torch.tensor(sums)}, torch.tensor(tokens)),
        "gate",
        DenseMoment(torch.tensor(moment)),
        squares,
        torch.tensor(directions),
        [1.0, -2.0],
    )
    np.testing.assert_allclose(found.folds, each[0] - 2 * each[1], rtol=1e-12)

    def weighted(folds: list[int]) -> Array:
        kinds = [np.average(each[n, folds], axis=0, weights=tokens[n, folds]) for n in (0, 1)]
        return np.asarray(kinds[0] - 2 * kinds[1])

    np.testing.assert_allclose(found.whole, weighted([0, 1, 2, 3, 4]), rtol=1e-12)
    np.testing.assert_allclose(found.without[1], weighted([0, 2, 3, 4]), rtol=1e-12)
    np.testing.assert_allclose(found.overlap, directions @ moment @ directions.T, rtol=1e-12)


def test_folds_that_say_the_same_promise_what_the_rule_predicts() -> None:
    known = some_site(1)
    same = replace(
        known, folds=np.stack([known.whole] * FOLDS), without=np.stack([known.whole] * FOLDS)
    )
    added = ROW_DAMPING * float((known.squares * known.overlap[0, 0]).mean())
    coefficients = known.whole / (known.squares * known.overlap[0, 0] + added)
    price = (coefficients**2 * known.squares * known.overlap[0, 0]).sum() / 2
    scale = np.sqrt(PROBING_DIVERGENCE / price)
    evidence = agreement_of_folds([same])
    assert evidence.gain == pytest.approx(scale * (coefficients * known.whole).sum())
    assert evidence.error == pytest.approx(0, abs=1e-12)
    assert evidence.is_clear
    assert evidence.folds == FOLDS


def evidence_of(signal: float, seed: int) -> bool:
    """Whether folds agree that hold a signal in noise of size 1."""
    generator = np.random.default_rng(seed)
    planted = generator.normal(size=(1, 1, EXPERTS, 2 * ROWS))
    noise = generator.normal(size=(FOLDS, 1, EXPERTS, 2 * ROWS))
    return agreement_of_folds([slopes_of(signal * planted + noise, generator)]).is_clear


def test_a_planted_signal_is_clear() -> None:
    assert all(evidence_of(1.0, seed) for seed in range(50))


def test_noise_is_clear_as_seldom_as_chance_allows() -> None:
    clear = sum(evidence_of(0.0, seed) for seed in range(400))
    assert clear <= 32  # 5 % of 400 are 20, with a standard deviation of 4.4


def test_labels_the_wrong_way_round_in_some_folds_are_not_clear() -> None:
    generator = np.random.default_rng(0)
    planted = generator.normal(size=(1, 1, EXPERTS, ROWS))
    turned = planted * np.array([1, -1, 1, -1, 0.0])[:, None, None, None]
    assert not agreement_of_folds([slopes_of(turned, generator)]).is_clear


def kind(gain: float, request: float, reply: float) -> TextKind:
    return TextKind("", (), gain, request, reply)


def test_directions_are_of_what_was_asked_and_of_what_was_said() -> None:
    plain = Contrast((kind(1, 0, 1), kind(-1, 0, -1)))
    asked = Contrast((kind(1, 1, 1), kind(-1, 1, -1), kind(1, -1, 1), kind(-1, -1, -1)))
    partly = Contrast((kind(1, 1, 1), kind(-1, 1, -1), kind(-1, -1, -1)))
    assert direction_weights([plain]) == [[1, -1]]
    half = 0.5
    assert direction_weights([plain, asked]) == [
        [1, -1, 0, 0, 0, 0],
        [0, 0, half, half, -half, -half],
        [0, 0, half, -half, half, -half],
    ]
    assert direction_weights([partly]) == [[half, half, -1], [1, -half, -half]]
