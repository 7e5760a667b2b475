"""What a search found: the chosen trial, what else the judge saw, and all trials."""

from dataclasses import dataclass

from modelsurgery.edit.edit import Edit
from modelsurgery.search.study import Trial


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
