"""The strength at which a method costs a given divergence."""

import math
from collections.abc import Callable

import pytest

from modelsurgery.rivals.matching import NEAR, match_divergence


@pytest.mark.parametrize(
    "divergence",
    [
        lambda s: 0.001 * s**2,
        lambda s: 30 * s**2,
        lambda s: 0.0014 * s**3.8,  # grows faster than the square law
        lambda s: 0.0001 * s if s < 3 else 0.0003 * (s / 3) ** 6,
        lambda s: 0.001 * s**2 if s < 20 else math.nan,  # the model breaks
    ],
)
@pytest.mark.parametrize("target", [0.005, 0.02, 0.1])
def test_it_finds_the_strength(divergence: Callable[[float], float], target: float) -> None:
    found = match_divergence(divergence, target)
    assert found.is_met
    assert divergence(found.strength) == found.divergence
    assert abs(found.divergence / target - 1) <= NEAR


def test_a_strength_with_a_limit_stays_below_it() -> None:
    asked: list[float] = []

    def divergence(strength: float) -> float:
        asked.append(strength)
        return 0.001 * strength**2

    found = match_divergence(divergence, 0.02, first=0.5, most=1.0)
    assert (found.strength, found.is_met) == (1.0, False)
    assert max(asked) == 1.0


def test_a_method_that_jumps_over_the_target_is_taken_below_it() -> None:
    found = match_divergence(lambda s: 0.001 if s < 2 else 5.0, 0.02)
    assert not found.is_met
    assert found.divergence == 0.001
    assert 1.5 < found.strength < 2


def test_a_model_that_every_strength_breaks() -> None:
    found = match_divergence(lambda _: math.inf, 0.02)
    assert not found.is_met
    assert found.divergence == math.inf
