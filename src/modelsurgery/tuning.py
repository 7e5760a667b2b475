"""The search for an edit: direction rule, rows, window of layers and strength, on train data.

No setting transfers between models, so the settings are compared at equal damage. For each
combination of rule, rows and window, the largest strength is found whose rise in loss on neutral
text stays inside the budget (one forward pass a try, no generation); combinations are ranked by
selectivity there; the finalists continue train prompts and the judge decides. Nothing held out is
read.
"""

import itertools
import math
from dataclasses import dataclass, replace

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
from modelsurgery.layouts import find_gate_matrices
from modelsurgery.models import LanguageModel
from modelsurgery.probe import DirectionRule, Probe
from modelsurgery.progress import Progress, silent
from modelsurgery.region import PAPER_ROWS, RowScores, score_rows, select_region

SAFETY = 0.8  # of the budget is used: held-out text may suffer a little more than tuning text
FIRST_STRENGTH = 4.0
LEAST_STRENGTH, MOST_STRENGTH = 0.25, 256.0
BISECTIONS = 2
TEXTS_PER_KIND = 64
PROMPTS_PER_FINALIST = 200


Window = tuple[int, int]  # first and last layer, counted 1..L


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
    windows: tuple[Window | None, ...] = (None,)
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
    window: Window | None
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
        space: SearchSpace,
        *,
        sign: int = 1,
        max_perplexity_rise: float = 0.05,
        seed: int = 0,
        progress: Progress = silent,
    ) -> None:
        """Score the gate rows and measure the base model.

        Args:
            model: the base model.
            behavior: its tuning texts, prompts and neutral texts are used.
            judge: decides between finalists.
            probe: gives the directions.
            space: what to try.
            sign: 1 away from the behavior, -1 toward it.
            max_perplexity_rise: the budget, 0.05 for +5 % on neutral text.
            seed: of sampling.
            progress: is told of settings tried.
        """
        self._model, self._judge, self._space = model, judge, space
        self._sign, self._seed, self._progress = sign, seed, progress
        self._directions = [probe.direction(rule) for rule in space.rules]
        gates = find_gate_matrices(model.checkpoint)
        self._scores: RowScores = score_rows(
            model.checkpoint, gates, torch.stack(self._directions), progress=progress
        )
        self._prompts = behavior.tuning_prompts[:PROMPTS_PER_FINALIST]
        shows, opposite = (
            [text.text for text in behavior.tuning if text.label == label][:TEXTS_PER_KIND]
            for label in (1, 0)
        )
        self._texts = (shows, opposite, behavior.tuning_neutral[: 2 * TEXTS_PER_KIND])
        self._base: TokenLosses = token_losses(model, *self._texts)
        self._allowed_rise = SAFETY * math.log1p(max_perplexity_rise)

    def run(self) -> SearchResult:
        """Compare all combinations at equal damage, let the judge decide between the best.

        Raises:
            DamageBudgetError: no strength of any combination stays inside the budget.
        """
        found = self.at_equal_damage()
        if not found:
            raise DamageBudgetError(
                "no edit keeps the perplexity inside the budget, not even at strength "
                f"{LEAST_STRENGTH}; raise --max-perplexity or take fewer rows"
            )
        base_rate = self._rate()
        finalists = []
        with self._progress("finalists", self._space.finalists) as advance:
            for candidate in found[: self._space.finalists]:
                with edited(self._model.model, self.edit_of(candidate)):
                    finalists.append(replace(candidate, rate=self._rate()))
                advance(1)
        finalists.sort(key=lambda one: math.inf if one.rate is None else self._sign * one.rate)
        best = finalists[0]
        candidates = (*finalists, *found[self._space.finalists :])
        return SearchResult(best, self.edit_of(best), candidates, base_rate)

    def at_equal_damage(self) -> list[Candidate]:
        """Every combination at its largest strength inside the budget, most selective first.

        Combinations that break the budget at every strength are left out.
        """
        space = self._space
        combinations = list(itertools.product(space.rules, space.rows, space.windows))
        found = []
        with self._progress("search", len(combinations)) as advance:
            for rule, rows, window in combinations:
                unit = self._edit(rule, rows, window, float(self._sign))
                strength = self._largest_strength(unit)
                if strength is not None:
                    edit = unit.scaled(strength)
                    losses = measure_selectivity(self._model, edit, self._base, *self._texts)
                    signed = self._sign * strength
                    found.append(Candidate(rule, rows, window, signed, losses))
                advance(1)
        return sorted(found, key=lambda one: -self._sign * one.selectivity.value)

    def edit_of(self, candidate: Candidate) -> Edit:
        """The edit of a setting."""
        return self._edit(candidate.rule, candidate.rows, candidate.window, candidate.strength)

    def _edit(
        self, rule: DirectionRule, rows: float | int, window: Window | None, strength: float
    ) -> Edit:
        number = self._space.rules.index(rule)
        region = select_region(self._scores, rows, direction=number, layers=window)
        return make_edit(region, self._directions[number], strength=strength)

    def _largest_strength(self, unit: Edit) -> float | None:
        """By doubling or halving from a first guess, then bisection of the logarithm."""
        inside, outside = None, None
        strength = FIRST_STRENGTH
        while (inside is None or outside is None) and (LEAST_STRENGTH <= strength <= MOST_STRENGTH):
            if self._is_inside(unit.scaled(strength)):
                inside, strength = strength, strength * 2
            else:
                outside, strength = strength, strength / 2
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
        return rise <= self._allowed_rise  # false for NaN: a broken model is outside

    def _rate(self) -> float | None:
        decoding = Decoding(seed=self._seed)
        return behavior_rate(self._model, self._prompts, self._judge, decoding)
