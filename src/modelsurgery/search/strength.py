"""The strength that a budget allows for one edit, from a few measurements.

Over a wide range divergence grows as the square of the strength, and faster where the model begins
to break. One strength is measured; then the square law, or what was measured on both sides of the
budget's edge, proposes the next one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from modelsurgery.edit.edit import Edit
from modelsurgery.errors import DamageBudgetError
from modelsurgery.evaluation.screening import Effect, Screen
from modelsurgery.files.progress import Progress, silent
from modelsurgery.search.budget import SAFETY, Budget
from modelsurgery.search.space import Setting
from modelsurgery.search.study import Trial

MOST_STRENGTHS = 11
USUAL_STRENGTHS = 3  # that are measured
AIM = 0.95 * SAFETY  # of the budget
ENOUGH = 0.85 * SAFETY  # of the budget: a strength that uses as much is taken
CLOSE = 1.1  # an allowed strength this near to one that is not is taken
MOST_STEP = 4.0
STEP_BACK = 0.8  # where prompts that do not call for the behavior show it too often
MOST_STEPS_BACK = 10

# Adds to an effect how often prompts show the behavior that do not call for it, under an edit.
UncalledMeasure = Callable[[Effect, Edit], Effect]


@dataclass(frozen=True)
class FittedStrength:
    """The strongest edit found inside a budget."""

    edit: Edit  # at its strength
    effect: Effect  # what it does to validation texts
    trials: tuple[Trial, ...]  # all that was measured, in order

    def within(self, budget: Budget, share: float) -> Edit:
        """The edit at the strength that takes a share of the budget, by the square law."""
        used = budget.use(self.effect)
        return self.edit if used <= share else self.edit.scaled(math.sqrt(share / used))


def fit_strength(
    edit: Edit,
    screen: Screen,
    budget: Budget,
    setting: Setting,
    *,
    first: float,
    uncalled: UncalledMeasure | None = None,
    progress: Progress = silent,
) -> FittedStrength:
    """Scale an edit of a setting to what a budget allows, by what it does to the screen's texts.

    The edit's sign is kept; `first` is the strength to begin with, positive. `uncalled` measures
    what the budget says of prompts that do not call for the behavior. It generates, so only
    strengths are measured that all else allows, the strongest first.

    Raises:
        DamageBudgetError: not even the mildest strength tried is inside the budget.
    """
    trials: list[Trial] = []

    def scaled(strength: float) -> Edit:
        return edit.scaled(strength / abs(edit.strength))

    def measure(strength: float) -> Trial:
        (effect,) = screen.measure([scaled(strength)], progress=progress)
        advance(1)
        return Trial(len(trials), setting, strength, effect)

    with progress("strength", USUAL_STRENGTHS) as advance:
        wanted: float | None = first
        while wanted is not None and len(trials) < MOST_STRENGTHS:
            trials.append(measure(wanted))
            wanted = next_strength(budget, trials)
        inside = _inside(budget, trials)
        if not inside:
            raise DamageBudgetError(_why_none(budget, trials))
        best = inside[-1]
        if uncalled is not None and budget.uncalled_rise is not None:
            for step in range(MOST_STEPS_BACK):
                # The first one was measured already, but for what is generated.
                found = measure(STEP_BACK * best.strength) if step else best
                effect = uncalled(found.effect, scaled(found.strength))
                best = replace(found, number=len(trials), effect=effect)
                trials.append(best)
                if budget.allows(effect):
                    break
            else:
                raise DamageBudgetError(_why_none(budget, [best]))
    made = replace(scaled(best.strength), measured=best.effect.measurement)
    return FittedStrength(made, best.effect, tuple(trials))


def next_strength(budget: Budget, trials: Sequence[Trial]) -> float | None:
    """The strength that should use the budget, from trials of one edit, at least one.

    None if one of them uses it.
    """
    inside = _inside(budget, trials)
    outside = [one for one in trials if not budget.allows(one.effect)]
    if not outside:
        best = inside[-1]
        used = _share(budget, best.effect)
        return None if used >= ENOUGH else best.strength * _step(used)
    over = min(outside, key=lambda one: one.strength)
    if not inside:
        return over.strength * min(_step(_share(budget, over.effect)), 1 / CLOSE)
    best = inside[-1]
    low, high = _share(budget, best.effect), _share(budget, over.effect)
    if low >= ENOUGH or over.strength <= CLOSE * best.strength:
        return None
    width = math.log(over.strength / best.strength)
    part = 0.5  # where capability alone is over, or the model broke
    if low < AIM < high < math.inf:
        part = math.log(AIM / low) / math.log(high / low)
    nearest = math.log(CLOSE) / 2
    return best.strength * math.exp(min(max(part * width, nearest), width - nearest))


def _inside(budget: Budget, trials: Sequence[Trial]) -> list[Trial]:
    """Trials below the first that the budget does not allow, weakest first."""
    ordered = sorted(trials, key=lambda one: one.strength)
    return list(takewhile(lambda one: budget.allows(one.effect), ordered))


def _share(budget: Budget, effect: Effect) -> float:
    """The share of the budget that an effect takes, but for counted answers, which jump."""
    if not effect.is_finite:
        return math.inf
    return replace(budget, capability_drop=None, uncalled_rise=None).use(effect)


def _step(used: float) -> float:
    """The factor that the square law gives, from a share of the budget to what is aimed at."""
    return min(max(math.sqrt(AIM / used), 1 / MOST_STEP), MOST_STEP)


def _why_none(budget: Budget, trials: Sequence[Trial]) -> str:
    mildest = min(trials, key=lambda one: one.strength)
    if not mildest.effect.is_finite:
        return "no edit: every strength tried broke the model; check that its weights are complete"
    binding, share = budget.binding(mildest.effect)
    return (
        f"no edit: strength {mildest.strength:.2g} already uses {share:.1f} times the budget of "
        f"{binding} on validation texts, and at most {SAFETY:.0%} of it may be used; use a larger "
        "budget"
    )
