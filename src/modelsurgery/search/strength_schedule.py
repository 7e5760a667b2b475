"""How strong a setting may be: what earlier trials say of the strength that a budget allows.

Over a wide range damage grows as a power of the strength, nearly the square of it. So one trial of
a setting tells about where its budget ends, and a second one corrects it; for a setting that was
never tried, the trials of others tell.
"""

import math
from collections.abc import Sequence

from sklearn.linear_model import Ridge

from modelsurgery.search.budget import SAFETY, Budget
from modelsurgery.search.space import SearchSpace, Setting
from modelsurgery.search.study import Trial

FIRST_STRENGTH = 2.0
LEAST_STRENGTH, MOST_STRENGTH = 0.05, 256.0
POWER = 2.0
POWERS = (1.0, 6.0)  # what two trials of a setting can say
AIM = 0.9 * SAFETY  # of the budget, so that a small error stays inside
CLOSE = 1.05  # two strengths nearer than this are one
STEP_BACK = 0.75
MOST_STEP = 8.0  # from one strength to the next


def expected_strength(
    space: SearchSpace,
    budget: Budget,
    trials: Sequence[Trial],
    setting: Setting,
    *,
    first: float = FIRST_STRENGTH,
) -> float:
    """The strength at which a setting that was never tried should take what the budget allows.

    `first` is taken while there are too few trials to tell.
    """
    if len(trials) < len(space.features(setting)) // 2:
        return first
    known = [space.features(trial.setting) for trial in trials]
    allowed = [
        math.log(trial.strength * _within_a_step((AIM / budget.use(trial.effect)) ** (1 / POWER)))
        for trial in trials
    ]
    regression = Ridge(0.3).fit(known, allowed)
    return _inside_bounds(math.exp(float(regression.predict([space.features(setting)])[0])))


def corrected_strength(budget: Budget, trials: Sequence[Trial]) -> float | None:
    """A better strength for a setting from its own trials; None when they settled it."""
    points = sorted((trial.strength, budget.use(trial.effect)) for trial in trials)
    (least, lower), (most, upper) = points[0], points[-1]
    power: float = POWER
    if most > CLOSE * least:
        power = math.log(upper / lower) / math.log(most / least)
        power = min(max(power, POWERS[0]), POWERS[1])
    nearest, used = min(points, key=lambda point: abs(math.log(point[1] / AIM)))
    wanted = nearest * _within_a_step(math.exp(math.log(AIM / used) / power))
    allowed = [one for one in trials if budget.allows(one.effect)]
    best = max(allowed, key=lambda one: one.strength, default=None)
    outside = min((one.strength for one in trials if one not in allowed), default=math.inf)
    if best is None:
        return _inside_bounds(min(wanted, STEP_BACK * outside))
    if outside <= CLOSE**2 * best.strength or budget.use(best.effect) >= AIM:
        return None
    if not CLOSE * best.strength < wanted < outside / CLOSE:
        if math.isinf(outside):
            return None
        wanted = math.sqrt(best.strength * outside)
    return _inside_bounds(wanted)


def value_at_budget(budget: Budget, trial: Trial) -> float:
    """The selectivity that a trial promises at the strength that the budget allows.

    Selectivity grows about as the strength does, damage as its square.
    """
    return trial.effect.selectivity / math.sqrt(budget.use(trial.effect))


def _within_a_step(factor: float) -> float:
    """Next to no damage, or a flood of it, says less than the power law makes of it."""
    return min(max(factor, 1 / MOST_STEP), MOST_STEP)


def _inside_bounds(strength: float) -> float:
    return min(max(strength, LEAST_STRENGTH), MOST_STRENGTH)
