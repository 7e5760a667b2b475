"""The largest strength inside a budget, on damage curves that are known."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from modelsurgery.edit.edit import Edit
from modelsurgery.edit.effects import Measurement
from modelsurgery.errors import DamageBudgetError
from modelsurgery.evaluation.screening import Effect, Screen
from modelsurgery.search import Budget, Setting, Trial, fit_strength
from modelsurgery.search.budget import SAFETY
from modelsurgery.search.strength import (
    AIM,
    CLOSE,
    ENOUGH,
    MOST_STRENGTHS,
    FittedStrength,
    next_strength,
)

BUDGET = Budget(perplexity_rise=None, divergence=0.02, capability_drop=2.0)
SETTING = Setting(None, "natural-gradient", 0.05)
Damage = Callable[[float], Effect]


def effect(divergence: float, lost: float = 0.0) -> Effect:
    return Effect(0.3, 0.0, 0.0, divergence, lost)


@dataclass
class Curve:
    """A screen on which an edit's damage depends on its strength alone."""

    damage: Damage
    asked: list[float] = field(default_factory=list)

    def measure(self, edits: Sequence[Edit], *, progress: object = None) -> list[Effect]:
        self.asked.extend(edit.strength for edit in edits)
        return [self.damage(abs(edit.strength)) for edit in edits]


def fitted(damage: Damage, *, strength: float = 1.0, budget: Budget = BUDGET) -> FittedStrength:
    screen = Curve(damage)
    found = fit_strength(
        Edit((), strength, strength, 100), cast(Screen, screen), budget, SETTING, first=0.3
    )
    assert [abs(one) for one in screen.asked] == pytest.approx([t.strength for t in found.trials])
    assert len(screen.asked) <= MOST_STRENGTHS
    assert budget.allows(found.effect)
    assert found.edit.measured == Measurement(found.effect.selectivity, found.effect.divergence)
    return found


@pytest.mark.parametrize("power", [1.5, 2, 4, 8])
@pytest.mark.parametrize("scale", [0.001, 0.1, 1.0, 30.0])
def test_the_budget_is_used_whatever_the_curve(scale: float, power: float) -> None:
    """Divergence (s / scale)^power."""
    found = fitted(lambda strength: effect((strength / scale) ** power))
    edge = scale * (SAFETY * 0.02) ** (1 / power)
    assert BUDGET.use(found.effect) >= ENOUGH or found.edit.strength >= edge / CLOSE
    assert found.edit.strength <= edge
    assert found.effect.divergence == pytest.approx((found.edit.strength / scale) ** power)


@pytest.mark.parametrize("first_use", [0.1, 0.7, 3.0])
def test_the_square_law_takes_one_correction(first_use: float) -> None:
    factor = first_use * 0.02 / 0.3**2
    found = fitted(lambda strength: effect(factor * strength**2))
    assert len(found.trials) <= 2


@pytest.mark.parametrize("edge", [0.02, 0.2, 0.45, 5.0])
@pytest.mark.parametrize("beyond", [math.nan, 100.0], ids=["broken", "steep"])
def test_a_strength_near_a_cliff_is_found(edge: float, beyond: float) -> None:
    """Almost nothing up to the edge, and far too much behind it."""
    found = fitted(lambda strength: effect(1e-5 if strength < edge else beyond))
    assert edge / CLOSE**2 <= found.edit.strength < edge


def test_capability_that_jumps_is_a_limit_too() -> None:
    found = fitted(lambda strength: effect(0.001 * strength**2, 0.05 if strength > 0.4 else 0.0))
    assert 0.4 / CLOSE**2 <= found.edit.strength <= 0.4


def test_strengths_behind_the_first_that_is_over_do_not_count() -> None:
    found = fitted(lambda strength: effect(0.0 if strength > 0.5 else strength**2))
    assert found.edit.strength < math.sqrt(SAFETY * 0.02)


@pytest.mark.parametrize("strength", [-1.0, 2.5, -0.01])
def test_the_sign_is_kept_and_the_size_does_not_matter(strength: float) -> None:
    found = fitted(lambda size: effect(size**2), strength=strength)
    assert math.copysign(1, found.edit.strength) == math.copysign(1, strength)
    assert abs(found.edit.strength) == pytest.approx(fitted(lambda s: effect(s**2)).edit.strength)


def test_answers_that_are_counted_come_last_and_step_the_strength_back() -> None:
    """Uncalled answers rise where the strength is over 0.08, what the rest allows is over 0.12."""
    budget = replace(BUDGET, uncalled_rise=1.0)
    counted: list[float] = []

    def uncalled(measured: Effect, edit: Edit) -> Effect:
        counted.append(edit.strength)
        return replace(measured, uncalled=0.05 if edit.strength > 0.08 else 0.0)

    screen = Curve(lambda strength: effect(strength**2))
    found = fit_strength(
        Edit((), 1.0, 1.0, 100), cast(Screen, screen), budget, SETTING, first=0.3, uncalled=uncalled
    )
    assert len(set(screen.asked)) == len(screen.asked)  # no strength is measured twice
    assert [one.number for one in found.trials] == list(range(len(found.trials)))
    largest = fitted(lambda strength: effect(strength**2)).edit.strength
    assert counted == pytest.approx([largest * 0.8**step for step in range(len(counted))])
    assert 0.08 * 0.8 < found.edit.strength <= 0.08
    assert found.edit.strength == counted[-1]
    assert budget.allows(found.effect)


def test_half_of_the_budget_by_the_square_law() -> None:
    found = fitted(lambda strength: effect(strength**2))
    assert found.within(BUDGET, 0.5).strength ** 2 == pytest.approx(0.5 * 0.02)
    assert found.within(BUDGET, 0.9) == found.edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda _: effect(0.05), r"already uses 2\.5 times the budget of divergence"),
        (lambda _: effect(0.0, 0.04), r"already uses 2\.0 times the budget of capability"),
        (lambda _: effect(math.nan), "every strength tried broke the model"),
    ],
)
def test_what_is_over_at_every_strength_is_no_edit(damage: Damage, message: str) -> None:
    with pytest.raises(DamageBudgetError, match=message):
        fitted(damage)


def trials(*points: tuple[float, float]) -> list[Trial]:
    return [Trial(0, SETTING, strength, effect(0.02 * used)) for strength, used in points]


def test_the_next_strength_by_hand() -> None:
    # From below and from above by the square law, never more than four times at once.
    assert next_strength(BUDGET, trials((0.3, 0.19))) == pytest.approx(0.3 * math.sqrt(AIM / 0.19))
    assert next_strength(BUDGET, trials((0.3, 1e-4))) == pytest.approx(1.2)
    assert next_strength(BUDGET, trials((0.3, 3.04))) == pytest.approx(0.3 * math.sqrt(AIM / 3.04))
    assert next_strength(BUDGET, trials((0.3, 1e4))) == pytest.approx(0.075)
    # Between two by the power that they show: here the fourth.
    measured = trials((0.2, 0.1), (0.4, 1.6))
    expected = 0.2 * (AIM / 0.1) ** 0.25
    assert next_strength(BUDGET, measured) == pytest.approx(expected)
    assert next_strength(BUDGET, trials((0.1, 0.01), (0.2, ENOUGH + 0.01))) is None
    assert next_strength(BUDGET, trials((0.2, 0.1), (0.2 * CLOSE, 9))) is None
