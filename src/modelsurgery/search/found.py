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
    """An edit at one strength."""

    strength: float  # portable; its sign is that of the edit
    # Share of validation prompts that show the behavior; None if nothing could be judged.
    rate: Rate | None
    effect: Effect  # what it does to validation texts, with errors
    used: dict[str, float]  # share of each limit of the budget
    is_chosen: bool  # whether it is the strength of the edit


@dataclass(frozen=True)
class Survivor:
    """A trial that was continued with."""

    trial: Trial  # the trial
    # Share of validation prompts that show the behavior; None if nothing could be judged.
    rate: float | None


@dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    best: Trial  # the chosen trial
    edit: Edit  # it, as an edit
    # The trial inside half of the budget that changes the behavior most, if there is one.
    milder: Trial | None
    survivors: tuple[Survivor, ...]  # trials that were generated with, best first
    trials: tuple[Trial, ...]  # all trials
    # Trials that no other one beats in both change of behavior and use of the budget, mildest
    # first.
    front: tuple[Trial, ...]
    broken: int  # trials whose edit broke the model
    # Behavior of the base model on the validation prompts; None if it could not be had.
    base_rate: float | None
    # Spearman's, of selectivity and judged change over the survivors: how well the cheap measure
    # ranked them. None for fewer than three.
    rank_correlation: float | None
    seconds: tuple[float, int]  # of the trials made here, and how many these were
