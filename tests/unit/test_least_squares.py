"""The arithmetic of the least-squares rule, against numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from modelsurgery.rules.least_squares import SiteResponses

TOKENS, ROWS, WIDTH = 60, 8, 5
GENERATOR = np.random.default_rng(0)
NEUTRAL = GENERATOR.normal(size=(TOKENS, ROWS))  # responses aᵢ on neutral text
BEHAVIOR = GENERATOR.normal(0.5, 1, size=(TOKENS, ROWS))
WRITES = GENERATOR.normal(size=(ROWS, WIDTH))
OUTWARD = GENERATOR.normal(size=WIDTH)
OUTWARD = OUTWARD / np.linalg.norm(OUTWARD)
STREAM = 7.0
KNOWN = SiteResponses(
    torch.tensor(BEHAVIOR.mean(0)),
    torch.tensor(np.square(NEUTRAL).mean(0)),
    torch.tensor(WRITES),
    torch.tensor(OUTWARD),
    STREAM,
)


def products(rows: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(NEUTRAL[:, rows].T @ NEUTRAL[:, rows] / TOKENS)


def test_gains_and_prices_are_those_of_what_is_written() -> None:
    for row in range(ROWS):
        moved = np.outer(BEHAVIOR[:, row], WRITES[row]) / STREAM
        assert float(KNOWN.gains[row]) == pytest.approx(-(moved @ OUTWARD).mean())
        written = np.outer(NEUTRAL[:, row], WRITES[row]) / STREAM
        assert float(KNOWN.prices[row]) == pytest.approx(np.square(written).sum(1).mean())


@pytest.mark.parametrize("damping", [0.0, 0.1, 3.0])
def test_chosen_rows_are_solved_for_together(damping: float) -> None:
    rows = np.array([1, 2, 5, 7])
    coefficients, scores = KNOWN.solve(
        torch.tensor(rows), torch.tensor(products(rows), dtype=torch.float32), damping
    )
    price = products(rows) * (WRITES[rows] @ WRITES[rows].T) / STREAM**2
    price += damping * np.trace(price) / len(rows) * np.eye(len(rows))
    gains = -BEHAVIOR.mean(0) * (WRITES @ OUTWARD) / STREAM
    expected = np.zeros(ROWS)
    expected[rows] = np.linalg.solve(price, gains[rows])
    np.testing.assert_allclose(coefficients, expected, rtol=1e-4)
    np.testing.assert_allclose(scores, gains * expected, rtol=1e-4)
    assert not coefficients[[0, 3, 4, 6]].any()


def test_no_other_coefficients_move_as_much_at_the_same_price() -> None:
    """The price of coefficients is the mean square of what they write on neutral text."""
    everything = np.arange(ROWS)
    best, _ = KNOWN.solve(torch.arange(ROWS), torch.tensor(products(everything)), damping=0.0)

    def worth(coefficients: NDArray[np.float64]) -> float:
        written = (NEUTRAL * coefficients) @ WRITES / STREAM
        moved = -((BEHAVIOR * coefficients) @ WRITES @ OUTWARD).mean() / STREAM
        return float(moved / np.sqrt(np.square(written).sum(1).mean()))

    generator = np.random.default_rng(1)
    size = np.abs(best).max()
    for scale in (0.01, 0.1, 1.0):
        for _ in range(20):
            assert worth(best) > worth(best + scale * size * generator.normal(size=ROWS))


def test_candidates_are_the_rows_with_most_gain_for_their_price() -> None:
    worth = np.square(KNOWN.gains.numpy()) / KNOWN.prices.numpy()
    for count in (1, 3, ROWS, 100):
        expected = sorted(np.argsort(-worth)[:count].tolist())
        assert KNOWN.candidates(count).tolist() == expected


def test_candidates_that_are_alike_are_taken_in_order() -> None:
    ones = torch.ones(ROWS, dtype=torch.float64)
    alike = replace(KNOWN, behavior=ones, squares=ones, writes=torch.ones(ROWS, WIDTH))
    assert alike.candidates(3).tolist() == [0, 1, 2]


def test_a_silent_neuron_is_no_candidate() -> None:
    behavior, squares = KNOWN.behavior.clone(), KNOWN.squares.clone()
    behavior[2] = squares[2] = 0
    silent = replace(KNOWN, behavior=behavior, squares=squares)
    assert 2 not in silent.candidates(ROWS - 1).tolist()
