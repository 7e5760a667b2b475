"""The search for an edit: direction rule, rows, window of layers and strength, on train data.

No setting transfers between models, so the settings are compared at equal damage. For each
combination of rule, rows and window, the largest strength is found whose rise in loss on neutral
text stays inside the budget (one forward pass a try, no generation); combinations are ranked by
selectivity there; the finalists continue train prompts and the judge decides. Nothing held out is
read.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from modelsurgery.apply.in_memory import edited
from modelsurgery.behaviors import Behavior
from modelsurgery.edit import Edit, make_edit
from modelsurgery.errors import DamageBudgetError
from modelsurgery.evaluation.generation import Decoding
from modelsurgery.evaluation.judges import Judge
from modelsurgery.evaluation.language_modelling import mean_token_loss
from modelsurgery.evaluation.measurement import behavior_rate
from modelsurgery.evaluation.selectivity import (
    Selectivity,
    TokenLosses,
    measure_selectivity,
    token_losses,
)
from modelsurgery.models import LanguageModel
from modelsurgery.probe import DirectionRule, Probe
from modelsurgery.progress import Progress, silent
from modelsurgery.region import PAPER_ROWS, Region, RowScores, select_region

SAFETY = 0.8  # of the budget is used: held-out text may suffer a little more than tuning text
FIRST_STRENGTH = 4.0
LEAST_STRENGTH, MOST_STRENGTH = 0.25, 256.0
BISECTIONS = 2
TEXTS_PER_KIND = 64
PROMPTS_PER_FINALIST = 200


@dataclass(frozen=True)
class SearchSpace:
    """What is tried.

    Attributes:
        rules: direction rules.
        rows: shares (float) of all gate rows, or counts (int).
        windows: windows of layers, first and last, counted 1..L; None is all layers.
        finalists: how many combinations are generated with.
    """

    rules: tuple[DirectionRule, ...] = ("mean-difference", "W1-W0", "W1")
    rows: tuple[float | int, ...] = (0.01, 0.02, PAPER_ROWS)
    windows: tuple[tuple[int, int] | None, ...] = (None,)
    finalists: int = 3


@dataclass(frozen=True)
class Candidate:
    """One setting, as strong as the budget lets it be.

    Attributes:
        rule: direction rule.
        rows: share or count of gate rows.
        window: layers, None for all.
        strength: in portable units; negative toward the behavior.
        selectivity: rise of the losses on tuning texts.
        rate: behavior on tuning prompts, sampled; None unless a finalist.
    """

    rule: DirectionRule
    rows: float | int
    window: tuple[int, int] | None
    strength: float
    selectivity: Selectivity
    rate: float | None = None


@dataclass(frozen=True)
class SearchResult:
    """What the search found.

    Attributes:
        best: the chosen setting.
        edit: it, as an edit.
        candidates: everything tried, best first: finalists by rate, then by selectivity.
        base_rate: behavior of the base model on the tuning prompts; None if it could not be had.
    """

    best: Candidate
    edit: Edit
    candidates: tuple[Candidate, ...]
    base_rate: float | None


def default_space(layer_count: int) -> SearchSpace:
    """The paper's setting (all layers) and what did better on small models: later layers only."""
    half, quarter = layer_count // 2 + 1, layer_count - layer_count // 4 + 1
    windows = [None, (half, layer_count), (min(quarter, layer_count), layer_count)]
    return SearchSpace(windows=tuple(dict.fromkeys(windows)) if layer_count > 1 else (None,))


class Search:
    """One search on one model; holds the texts and the base model's losses on them."""

    def __init__(
        self,
        model: LanguageModel,
        behavior: Behavior,
        judge: Judge,
        probe: Probe,
        *,
        sign: int = 1,
        max_perplexity_rise: float = 0.05,
        seed: int = 0,
        progress: Progress = silent,
    ) -> None:
        """Prepare.

        Args:
            model: the base model.
            behavior: its tuning texts, prompts and neutral texts are used.
            judge: decides between finalists.
            probe: gives the directions.
            sign: 1 away from the behavior, -1 toward it.
            max_perplexity_rise: the budget, 0.05 for +5 % on neutral text.
            seed: of sampling.
            progress: is told of settings tried.
        """
        self._model, self._judge, self._probe = model, judge, probe
        self._sign, self._seed, self._progress = sign, seed, progress
        self._prompts = behavior.tuning_prompts[:PROMPTS_PER_FINALIST]
        shows, opposite = (
            [text.text for text in behavior.tuning if text.label == label][:TEXTS_PER_KIND]
            for label in (1, 0)
        )
        self._texts = (shows, opposite, behavior.tuning_neutral[: 2 * TEXTS_PER_KIND])
        self._base: TokenLosses = token_losses(model, *self._texts)
        self._allowed = SAFETY * math.log1p(max_perplexity_rise)

    def run(self, scores: RowScores, space: SearchSpace) -> SearchResult:
        """Try every combination of the space and choose one.

        Args:
            scores: from `score_rows`, one direction for each rule of the space, in its order.
            space: what to try.

        Raises:
            DamageBudgetError: no strength of any combination stays inside the budget.
        """
        regions: dict[tuple[float | int, tuple[int, int] | None, int], Region] = {}
        combinations = list(itertools.product(enumerate(space.rules), space.rows, space.windows))
        found = []
        with self._progress("search", len(combinations) + space.finalists) as advance:
            for (index, rule), rows, window in combinations:
                region = select_region(scores, rows, direction=index, layers=window)
                regions[rows, window, index] = region
                found += self._strongest(region, rule, rows, window)
                advance(1)
            if not found:
                raise DamageBudgetError(
                    "no edit keeps the perplexity inside the budget, not even at strength "
                    f"{LEAST_STRENGTH}; raise --max-perplexity or take fewer rows"
                )
            found.sort(key=lambda one: -self._sign * one.selectivity.value)
            finalists = []
            for candidate in found[: space.finalists]:
                finalists.append(self._with_rate(candidate, scores, space))
                advance(1)
        finalists.sort(key=lambda one: math.inf if one.rate is None else self._sign * one.rate)
        best = finalists[0]
        base_rate = self._rate()
        region = regions[best.rows, best.window, space.rules.index(best.rule)]
        edit = make_edit(region, self._direction(best.rule), strength=best.strength)
        candidates = (*finalists, *found[space.finalists :])
        return SearchResult(best, edit, candidates, base_rate)

    def _direction(self, rule: DirectionRule) -> torch.Tensor:
        return self._probe.direction(rule)

    def _strongest(
        self,
        region: Region,
        rule: DirectionRule,
        rows: float | int,
        window: tuple[int, int] | None,
    ) -> list[Candidate]:
        """The strongest edit inside the budget with its selectivity; empty if there is none."""
        unit = make_edit(region, self._direction(rule), strength=float(self._sign))
        strength = self._largest_strength(unit)
        if strength is None:
            return []
        edit = unit.scaled(strength)
        selectivity = measure_selectivity(self._model, edit, self._base, *self._texts)
        return [Candidate(rule, rows, window, self._sign * strength, selectivity)]

    def _largest_strength(self, unit: Edit) -> float | None:
        inside, outside = None, None
        strength = FIRST_STRENGTH
        while LEAST_STRENGTH <= strength <= MOST_STRENGTH:
            if self._is_inside(unit.scaled(strength)):
                inside = strength
                if outside is not None:
                    break
                strength *= 2
            else:
                outside = strength
                if inside is not None:
                    break
                strength /= 2
        if inside is None or outside is None:
            return inside
        for _ in range(BISECTIONS):
            middle = math.sqrt(inside * outside)
            if self._is_inside(unit.scaled(middle)):
                inside = middle
            else:
                outside = middle
        return inside

    def _is_inside(self, edit: Edit) -> bool:
        with edited(self._model.model, edit):
            rise = mean_token_loss(self._model, self._texts[2]) - self._base.clean
        return rise <= self._allowed  # false for NaN: a broken model is outside

    def _with_rate(self, candidate: Candidate, scores: RowScores, space: SearchSpace) -> Candidate:
        region = select_region(
            scores,
            candidate.rows,
            layers=candidate.window,
            direction=space.rules.index(candidate.rule),
        )
        edit = make_edit(region, self._direction(candidate.rule), strength=candidate.strength)
        with edited(self._model.model, edit):
            rate = self._rate()
        return Candidate(
            candidate.rule,
            candidate.rows,
            candidate.window,
            candidate.strength,
            candidate.selectivity,
            rate,
        )

    def _rate(self) -> float | None:
        decoding = Decoding(seed=self._seed)
        return behavior_rate(self._model, self._prompts, self._judge, decoding)


def directions_of(probe: Probe, rules: Sequence[DirectionRule]) -> torch.Tensor:
    """The directions of the rules, [m, d] float32."""
    return torch.stack([probe.direction(rule) for rule in rules])
