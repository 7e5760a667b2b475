"""The search for an edit: probe layer, direction rule, rows, window and strength, on train data.

No setting transfers between models, so settings are compared at equal damage: each gets the largest
strength whose damage, rise in loss on neutral text and facts lost, stays inside the budget (forward
passes only, no generation), and is ranked by its selectivity there. Directions (probe
layer and rule) are screened first, with the middle rows and window; the best of them are tried with
all rows and windows; the finalists continue train prompts, and the judge decides. Nothing held out
is read.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from modelsurgery.apply.in_memory import edited
from modelsurgery.behaviors import Behavior
from modelsurgery.edit import Edit, make_edit
from modelsurgery.errors import DamageBudgetError
from modelsurgery.evaluation.judges import Judge
from modelsurgery.evaluation.language_modelling import answer_accuracy, mean_token_loss
from modelsurgery.evaluation.measurement import behavior_rate, decoding_of
from modelsurgery.evaluation.selectivity import (
    Selectivity,
    TokenLosses,
    measure_selectivity,
    token_losses,
)
from modelsurgery.models import LanguageModel
from modelsurgery.probe import DirectionRule, Probe
from modelsurgery.progress import Progress, silent
from modelsurgery.region import PAPER_ROWS, RowScores, score_rows, select_region

SAFETY = 0.8  # of the budget is used: held-out text may suffer a little more than tuning text
FIRST_STRENGTH = 2.0
LEAST_STRENGTH, MOST_STRENGTH = 0.25, 256.0
BISECTIONS = 3
TEXTS_PER_KIND = 64
PROMPTS_PER_FINALIST = 200


Window = tuple[int, int]  # first and last layer, counted 1..L
Direction = tuple[int | None, DirectionRule]  # layer of the probe, and what is taken from it
Place = tuple[float | int, Window | None]  # how many rows, in which layers


@dataclass(frozen=True)
class SearchSpace:
    """What is tried. The middle entry of rows and windows is the one that directions meet first.

    Attributes:
        rules: direction rules.
        rows: shares (float) of all gate rows, or counts (int).
        windows: windows of layers, first and last, counted 1..L; None is all layers.
        screened: how many directions (probe layer and rule) are tried with all rows and windows.
        finalists: how many settings are generated with.
    """

    rules: tuple[DirectionRule, ...] = ("mean-difference", "W1-W0", "W1")
    rows: tuple[float | int, ...] = (0.01, 0.02, PAPER_ROWS)
    windows: tuple[Window | None, ...] = (None,)
    screened: int = 1
    finalists: int = 4


@dataclass(frozen=True)
class Candidate:
    """One setting, as strong as the budget lets it be.

    Attributes:
        probe_layer: layer of the probe that gives the direction, 1..L.
        rule: direction rule.
        rows: share or count of gate rows.
        window: layers that are edited, None for all.
        strength: in portable units; negative toward the behavior.
        selectivity: rise of the losses on tuning texts.
        rate: behavior on tuning prompts, sampled; None unless a finalist.
    """

    probe_layer: int | None
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
        probe: the probe whose direction it takes.
        edit: it, as an edit.
        candidates: everything tried, best first: finalists by rate, then by selectivity.
        base_rate: behavior of the base model on the tuning prompts; None if it could not be had.
    """

    best: Candidate
    probe: Probe
    edit: Edit
    candidates: tuple[Candidate, ...]
    base_rate: float | None


def default_space(layer_count: int) -> SearchSpace:
    """All layers, as the paper; later layers only, which did better on small models."""
    if layer_count == 1:
        return SearchSpace()
    half, quarter = layer_count // 2 + 1, layer_count - (layer_count - 1) // 4
    windows = (None, (half, layer_count), (quarter, layer_count))
    return SearchSpace(windows=tuple(dict.fromkeys(windows)))


def default_probe_layers(layer_count: int) -> tuple[int, ...]:
    """The last layer, as the paper, then three quarters and half of the way."""
    layers = (layer_count, (3 * layer_count + 2) // 4, (layer_count + 1) // 2)
    return tuple(dict.fromkeys(layers))


class Search:
    """One search on one model; holds the texts and the base model's losses on them."""

    def __init__(
        self,
        model: LanguageModel,
        behavior: Behavior,
        judge: Judge,
        probes: Sequence[Probe],
        space: SearchSpace,
        *,
        sign: int = 1,
        max_perplexity_rise: float = 0.05,
        max_facts_lost: float = 0.02,
        seed: int = 0,
        progress: Progress = silent,
    ) -> None:
        """Score the gate rows and measure the base model.

        Args:
            model: the base model.
            behavior: its tuning texts, prompts and neutral texts are used.
            judge: decides between finalists.
            probes: give the directions, one probe a layer.
            space: what to try.
            sign: 1 away from the behavior, -1 toward it.
            max_perplexity_rise: the budget, 0.05 for +5 % on neutral text.
            max_facts_lost: the budget on facts, 0.02 for two points of exact match.
            seed: of sampling.
            progress: is told of settings tried.
        """
        self._model, self._judge, self._space = model, judge, space
        self._sign, self._progress = sign, progress
        self._directions = {
            (probe.layer, rule): probe.direction(rule) for probe in probes for rule in space.rules
        }
        self._probes = {probe.layer: probe for probe in probes}
        self._scores: RowScores = score_rows(
            model.checkpoint,
            model.gates,
            np.stack(list(self._directions.values())),
            progress=progress,
        )
        self._prompts = behavior.tuning_prompts[:PROMPTS_PER_FINALIST]
        self._decoding = decoding_of(behavior.prompt_sets[0], seed)
        shows, opposite = (
            [model.written(text) for text in behavior.tuning if text.label == label][
                :TEXTS_PER_KIND
            ]
            for label in (1, 0)
        )
        self._texts = (shows, opposite, behavior.tuning_neutral[: 2 * TEXTS_PER_KIND])
        self._facts, self._max_facts_lost = behavior.tuning_facts, max_facts_lost
        self._base: TokenLosses = token_losses(model, *self._texts)
        self._base_facts = answer_accuracy(model, self._facts)
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
        probe = self._probes[best.probe_layer]
        return SearchResult(best, probe, self.edit_of(best), candidates, base_rate)

    def at_equal_damage(self) -> list[Candidate]:
        """Settings at their largest strength inside the budget, most selective first.

        Settings that break the budget at every strength are left out.
        """
        space = self._space
        rows, windows = space.rows, space.windows
        middle = (rows[(len(rows) - 1) // 2], windows[len(windows) // 2])
        others = [pair for pair in itertools.product(rows, windows) if pair != middle]
        going_on = min(space.screened, len(self._directions))
        with self._progress("search", len(self._directions) + going_on * len(others)) as advance:

            def tried(directions: Iterable[Direction], pairs: list[Place]) -> list[Candidate]:
                found = []
                for direction, pair in itertools.product(directions, pairs):
                    found += self._strongest(direction, pair)
                    advance(1)
                return sorted(found, key=lambda one: -self._sign * one.selectivity.value)

            screened = tried(self._directions, [middle])
            best = [(one.probe_layer, one.rule) for one in screened[:going_on]]
            found = screened + tried(best, others)
        return sorted(found, key=lambda one: -self._sign * one.selectivity.value)

    def edit_of(self, candidate: Candidate) -> Edit:
        """The edit of a setting."""
        direction = (candidate.probe_layer, candidate.rule)
        return self._edit(direction, (candidate.rows, candidate.window), candidate.strength)

    def _strongest(self, direction: Direction, place: Place) -> list[Candidate]:
        unit = self._edit(direction, place, float(self._sign))
        strength = self._largest_strength(unit)
        if strength is None:
            return []
        losses = measure_selectivity(self._model, unit.scaled(strength), self._base, *self._texts)
        return [Candidate(*direction, *place, self._sign * strength, losses)]

    def _edit(self, direction: Direction, place: Place, strength: float) -> Edit:
        rows, window = place
        number = list(self._directions).index(direction)
        region = select_region(self._scores, rows, direction=number, layers=window)
        vector, layout = self._directions[direction], self._model.layout
        return make_edit(region, vector, strength=strength, layout=layout)

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
        """Whether neutral text and facts suffer no more than the budget allows."""
        with edited(self._model.model, edit):
            rise = mean_token_loss(self._model, self._texts[2]) - self._base.clean
            if not rise <= self._allowed_rise:  # so that NaN, a broken model, is outside
                return False
            lost = self._base_facts - answer_accuracy(self._model, self._facts)
        return lost <= self._max_facts_lost

    def _rate(self) -> float | None:
        return behavior_rate(self._model, self._prompts, self._judge, self._decoding)
