"""Dose and response: what the chosen rows do at other strengths, on validation data.

Every strength continues the same prompts with the same random numbers. The curve explains a choice
and is no part of it: the strength is chosen before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from modelsurgery.edit.edit import Edit
from modelsurgery.evaluation.screening import Effect, Screen
from modelsurgery.evaluation.statistics import rate_of
from modelsurgery.files.progress import Progress, silent
from modelsurgery.results import Rate
from modelsurgery.search.budget import Budget
from modelsurgery.search.strength import UncalledMeasure

DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # times the chosen strength
# By how many there are: fewer where time is short.
DOSES_BY_COUNT: Mapping[int, tuple[float, ...]] = {
    3: (0.0, 1.0, 2.0),
    5: (0.0, 0.5, 1.0, 1.5, 2.0),
    8: DOSES,
}


@dataclass(frozen=True)
class DosePoint:
    """An edit at one strength.

    Attributes:
        strength: portable; its sign is that of the edit.
        rate: share of validation prompts that show the behavior; None if nothing could be judged.
        effect: what it does to validation texts, with errors.
        used: share of each limit of the budget.
        is_chosen: whether it is the strength of the edit.
    """

    strength: float
    rate: Rate | None
    effect: Effect
    used: dict[str, float]
    is_chosen: bool


def dose_response(
    edit: Edit,
    screen: Screen,
    budget: Budget,
    prompt_rates: Callable[[Sequence[Edit]], Sequence[float]],
    progress: Progress = silent,
    *,
    uncalled: UncalledMeasure | None = None,
    doses: Sequence[float] = DOSES,
) -> tuple[DosePoint, ...]:
    """Measure an edit at several strengths, weakest first.

    Args:
        edit: at the chosen strength.
        screen: validation texts.
        budget: what the damage is compared with.
        prompt_rates: how often each validation prompt shows the behavior under edits, 0 to 1.
        progress: is told of strengths done.
        uncalled: adds to an effect how often prompts show the behavior that do not call for it.
        doses: factors of the chosen strength; one at which the model is broken is left out.
    """
    scaled = [edit.scaled(dose) for dose in doses]
    points = []
    with progress("dose-response", len(doses)) as advance:
        effects = screen.measure(scaled, progress=progress)
        for dose, one, effect in zip(doses, scaled, effects, strict=True):
            if effect.is_finite:
                rates = prompt_rates([one] if dose else [])
                rate = rate_of(rates) if rates else None
                told = uncalled(effect, one) if uncalled is not None and dose else effect
                points.append(DosePoint(one.strength, rate, told, budget.used(told), dose == 1.0))
            advance(1)
    return tuple(points)
