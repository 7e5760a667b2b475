"""The strength that a budget allows for one edit, from a few measurements.

Divergence grows nearly as the square of the strength. Three strengths, each twice the one before,
are measured in one pass beside the base model; what they say of the power gives the next, until
one uses the budget and stays inside it.
"""

import math
from dataclasses import dataclass

from modelsurgery.edit import Edit
from modelsurgery.errors import DamageBudgetError
from modelsurgery.evaluation.screening import Effect, Screen
from modelsurgery.tuning.budget import Budget
from modelsurgery.tuning.doses import corrected_strength
from modelsurgery.tuning.space import Setting
from modelsurgery.tuning.study import Trial

FIRST_FACTORS = (0.5, 1.0, 2.0)
MOST_CORRECTIONS = 6


@dataclass(frozen=True)
class FittedStrength:
    """The strongest edit found inside a budget.

    Attributes:
        edit: at its strength.
        effect: what it does to tuning texts.
        trials: all that was measured, in order.
    """

    edit: Edit
    effect: Effect
    trials: tuple[Trial, ...]

    def within(self, budget: Budget, share: float) -> Edit | None:
        """The edit at the largest strength that takes a share of the budget, by the square law."""
        used = budget.use(self.effect)
        if not used > share:
            return self.edit
        return self.edit.scaled(math.sqrt(share / used))


def fit_strength(
    edit: Edit, screen: Screen, budget: Budget, setting: Setting, *, first: float
) -> FittedStrength:
    """Scale an edit to what a budget allows.

    Args:
        edit: at any strength; its sign is kept.
        screen: tuning texts.
        budget: what must not break.
        setting: what the edit was made from.
        first: strength to begin with, positive.

    Raises:
        DamageBudgetError: not even the mildest strength tried is inside the budget.
    """
    size = abs(edit.strength)
    trials: list[Trial] = []

    def measure(strengths: list[float]) -> None:
        effects = screen.measure([edit.scaled(one / size) for one in strengths])
        trials.extend(
            Trial(len(trials) + place, setting, strength, effect)
            for place, (strength, effect) in enumerate(zip(strengths, effects, strict=True))
            if effect.is_finite
        )

    measure([first * factor for factor in FIRST_FACTORS])
    for _ in range(MOST_CORRECTIONS):
        wanted = corrected_strength(budget, trials) if trials else first / 8
        if wanted is None:
            break
        measure([wanted])
    inside = [one for one in trials if budget.allows(one.effect)]
    if not inside:
        raise DamageBudgetError(_why_none(budget, trials))
    best = max(inside, key=lambda one: one.strength)
    return FittedStrength(edit.scaled(best.strength / size), best.effect, tuple(trials))


def _why_none(budget: Budget, trials: list[Trial]) -> str:
    if not trials:
        return "no edit: every strength tried broke the model; check that its weights are whole"
    mildest = min(trials, key=lambda one: one.strength)
    binding = budget.binding(mildest.effect)
    share = budget.used(mildest.effect)[binding]
    return (
        f"no edit: strength {mildest.strength:.2g} already takes {share:.1f} times the budget of "
        f"{binding} on tuning texts; allow more"
    )
