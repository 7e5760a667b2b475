"""The strength at which a divergence is met, for divergences that grow in different ways."""

import math
from collections.abc import Callable

import pytest

from modelsurgery.rivals.matching import Matched, match_divergence


def counted(divergence: Callable[[float], float], **options: float) -> tuple[Matched, int]:
    strengths: list[float] = []

    def measure(strength: float) -> float:
        strengths.append(strength)
        return divergence(strength)

    return match_divergence(measure, 0.02, **options), len(strengths)


@pytest.mark.parametrize("power", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_a_power_of_the_strength(power: int, scale: float) -> None:
    found, count = counted(lambda strength: 0.02 * (strength / scale) ** power)
    assert found.is_met
    assert found.divergence == pytest.approx(0.02, rel=0.1)
    assert found.strength == pytest.approx(scale, rel=0.1)
    assert count <= 10


def test_growth_that_steepens() -> None:
    # Quadratic below 1, the fifth power above: as adding a vector does to the demo model.
    found, count = counted(lambda strength: 0.0017 * max(strength**2, strength**5))
    assert found.is_met
    assert count <= 6


def test_a_jump_gives_the_strongest_one_below() -> None:
    found, _ = counted(lambda strength: 0.001 if strength < 3 else math.inf)
    assert not found.is_met
    assert 2 < found.strength < 3
    assert found.divergence == 0.001


def test_a_limit_below_the_target() -> None:
    found, count = counted(lambda strength: 0.001 * strength**2, first=0.3, most=1.0)
    assert found == Matched(1.0, 0.001, False)
    assert count == 2


def test_what_is_on_or_off_is_measured_twice() -> None:
    found, count = counted(lambda strength: 0.5, first=1.0, most=1.0)
    assert not found.is_met
    assert found.divergence == 0.5
    assert count == 2
