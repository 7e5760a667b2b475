"""What a search found, and what its edit does at other strengths: the dose-response curve."""

from collections.abc import Mapping
from dataclasses import dataclass

from modelsurgery.edit.edit import Edit
from modelsurgery.evaluation.screening import Effect
from modelsurgery.results import Rate
from modelsurgery.search.study import Trial

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


@dataclass(frozen=True)
class Survivor:
    """A trial that was continued with.

    Attributes:
        trial: the trial.
        rate: share of validation prompts that show the behavior; None if nothing could be judged.
    """

    trial: Trial
    rate: float | None


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        best: the chosen trial.
        edit: it, as an edit.
        milder: the trial inside half of the budget that changes the behavior most, if there is one.
        survivors: trials that were generated with, best first.
        trials: all trials.
        broken: trials whose edit broke the model.
        front: trials that no other one beats in both change of behavior and use of the budget,
            mildest first.
        base_rate: behavior of the base model on the validation prompts; None if it could not be
            had.
        rank_correlation: Spearman's, of selectivity and judged change over the survivors: how well
            the cheap measure ranked them. None for fewer than three.
        seconds: of the trials made here, and how many these were.
    """

    best: Trial
    edit: Edit
    milder: Trial | None
    survivors: tuple[Survivor, ...]
    trials: tuple[Trial, ...]
    front: tuple[Trial, ...]
    broken: int
    base_rate: float | None
    rank_correlation: float | None
    seconds: tuple[float, int]
