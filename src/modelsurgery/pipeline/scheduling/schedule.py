"""The stages of a run with the time and the memory that they will take."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from modelsurgery.data.behaviors import Behavior
from modelsurgery.data.texts import LabeledText
from modelsurgery.model.chat_template import Text
from modelsurgery.model.hidden_states import MAX_TOKENS
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.pipeline.choosing import REPORT_TEXTS
from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.pipeline.scheduling.memory import peak_bytes
from modelsurgery.pipeline.scheduling.pace import Pace
from modelsurgery.pipeline.scheduling.sizes import NAMES, Sizes, given
from modelsurgery.rules.natural_gradient import KEPT_TOKENS
from modelsurgery.rules.proposing import PRICED_TOKENS
from modelsurgery.search import default_probe_layers
from modelsurgery.search.fitting import RULE_TEXTS, some_of_each
from modelsurgery.search.search import (
    AT_A_TIME,
    CONTINUATIONS,
    NEUTRAL_TEXTS,
    SURVIVORS,
    TEXTS_PER_KIND,
)

SMALL_PARAMETERS = 20_000_000  # a run of a model with fewer is a matter of seconds
DEFAULT_MINUTES = 15.0
AIM = 0.85  # of the time: loading, judging and the report take some, and a pace is an estimate
SEARCH_SHARE = 0.5  # of the time that is left to the trials of a search
LOOKED_AT = 64  # texts of a kind whose length is taken for all
STRENGTHS = 5  # that a search for the strength measures, about
INSIDE_TEXTS = 64


@dataclass(frozen=True)
class PlannedStage:
    """A part of a run."""

    name: str  # as progress calls it
    reads: float = 0.0  # tokens read forward
    learns: float = 0.0  # tokens read forward and back
    prompts: float = 0.0  # tokens of prompts that are continued
    writes: float = 0.0  # new tokens
    seconds: float = 0.0  # what that takes; 0 before a pace is known

    def at(self, pace: Pace) -> "PlannedStage":
        """The same with the time that it takes."""
        work, rates = (self.reads, self.learns, self.prompts, self.writes), vars(pace).values()
        seconds = sum(tokens / rate for tokens, rate in zip(work, rates, strict=True))
        return replace(self, seconds=seconds)


@dataclass(frozen=True)
class Schedule:
    """What a run will do, and how long that takes."""

    sizes: Sizes  # how much it takes of everything
    stages: tuple[PlannedStage, ...]  # in order
    pace: Pace  # tokens a second that the estimate is made from
    # What the run may take; None where nothing was asked for and no default holds.
    minutes: float | None
    # Of it, what the trials of a search get; None without a limit for them.
    search_seconds: float | None
    # What is smaller than it would be with more time: how much that would be, and is.
    reduced: dict[str, tuple[int, int]]
    memory_bytes: int  # peak, about

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def fits(self) -> bool:
        """Whether it ends in time, by the estimate."""
        return self.minutes is None or self.seconds <= 60 * self.minutes

    def to_json(self) -> dict[str, Any]:
        """Plain values; `reduced` in words."""
        return {
            "sizes": asdict(self.sizes),
            "stages": [asdict(stage) for stage in self.stages],
            "pace": asdict(self.pace),
            "minutes": self.minutes,
            "search_seconds": self.search_seconds,
            "seconds": self.seconds,
            "fits": self.fits,
            "reduced": [
                {"what": NAMES[name], "from": whole, "to": now}
                for name, (whole, now) in self.reduced.items()
            ],
            "memory_bytes": self.memory_bytes,
        }


def is_small(model: LanguageModel) -> bool:
    """Whether a whole run is a matter of seconds, so that nothing need be planned."""
    return int(model.model.num_parameters()) < SMALL_PARAMETERS


def make_schedule(
    recipe: Recipe, model: LanguageModel, behavior: Behavior, pace: Pace, *, minutes: float | None
) -> Schedule:
    """The stages of a run, with sizes that fit the time where the recipe leaves them open.

    The recipe has its trials and direction, the behavior its full size. The minutes are for the
    whole run; None does not limit it. A search's trials get what is left of them, and the other
    stages at most half; without a limit for the trials they come on top.
    """
    amounts = _Amounts(recipe, model, behavior)
    most = amounts.most()
    full = Sizes.of(recipe)
    is_bounded_search = recipe.is_searched and recipe.minutes is not None and minutes is not None
    room = math.inf if minutes is None else AIM * 60 * minutes
    share = SEARCH_SHARE if is_bounded_search else 1.0
    for sizes in full.smaller(given(recipe), most):
        stages = {one.name: one.at(pace) for one in amounts.stages(sizes)}
        others = sum(one.seconds for name, one in stages.items() if name != "trials")
        if others <= share * room:
            break
    search_seconds = None
    if is_bounded_search:
        assert minutes is not None
        search_seconds = max(room - others, (1 - SEARCH_SHARE) * 60 * minutes)
        trials = stages["trials"]
        seconds = search_seconds if recipe.trials is None else min(search_seconds, trials.seconds)
        stages["trials"] = replace(trials, seconds=seconds)
    return Schedule(
        sizes,
        tuple(stages.values()),
        pace,
        minutes,
        search_seconds,
        sizes.reductions(full, most),
        peak_bytes(recipe, model),
    )


def with_seconds_taken(plan: dict[str, Any], seconds: Mapping[str, float]) -> dict[str, Any]:
    """A plan, as plain values, with what each stage took beside what was expected."""
    stages = [{**one, "took": seconds.get(one["name"])} for one in plan["stages"]]
    return {**plan, "stages": stages}


@dataclass(frozen=True)
class _Amounts:
    """What the stages of a run read and write, in tokens."""

    recipe: Recipe
    model: LanguageModel
    behavior: Behavior

    def most(self) -> Sizes:
        """How much there is of everything."""
        behavior, full = self.behavior, Sizes()
        labels = [sum(one.label == label for one in behavior.train) for label in (0, 1)]
        rule = math.inf if self.recipe.chosen_rule == "paper" else RULE_TEXTS
        return replace(
            full,
            train_texts=int(min(rule, *labels)),
            prompt_count=len(behavior.prompt_sets[0].texts),
            validation_prompts=len(behavior.validation_prompts),
            samples=self.recipe.samples or full.samples,
            neutral_texts=len(behavior.test_neutral),
        )

    def stages(self, sizes: Sizes) -> list[PlannedStage]:
        """All stages, without their time."""
        recipe, train = self.recipe, self.behavior.train
        all_of_them = len(train) if recipe.chosen_rule == "paper" else RULE_TEXTS
        fit = some_of_each(train, sizes.train_texts or all_of_them)
        is_open = recipe.alpha is None and recipe.strength is None
        return [
            self._hidden_states(fit),
            *self._rule(fit),
            *(self._search(sizes) if is_open else ()),
            *self._after(sizes),
        ]

    def _hidden_states(self, fit: Sequence[LabeledText]) -> PlannedStage:
        recipe, count = self.recipe, self.model.layer_count
        test = self.behavior.test
        share = 1.0
        if recipe.chosen_rule != "paper":
            layer = recipe.layer or (default_probe_layers(count)[1:2] or (count,))[0]
            test, share = some_of_each(test, REPORT_TEXTS // 2), layer / count
        return PlannedStage("hidden states", reads=share * self._tokens([*fit, *test], MAX_TOKENS))

    def _rule(self, fit: Sequence[LabeledText]) -> list[PlannedStage]:
        tokens = self._tokens(fit)
        if self.recipe.chosen_rule == "paper":
            return []
        if self.recipe.chosen_rule == "least-squares":
            return [
                PlannedStage("gate inputs", reads=tokens),
                PlannedStage("block outputs", reads=tokens + KEPT_TOKENS),
                PlannedStage("moments", reads=KEPT_TOKENS),
                PlannedStage("responses", learns=tokens / 2 + 2 * KEPT_TOKENS),
            ]
        return [
            PlannedStage("gate inputs", reads=tokens),
            PlannedStage("moments", reads=KEPT_TOKENS),
            PlannedStage("prices", learns=PRICED_TOKENS),
            PlannedStage("gains", learns=self.recipe.tried_steps * (tokens + KEPT_TOKENS)),
        ]

    def _search(self, sizes: Sizes) -> list[PlannedStage]:
        """Strength or trials, and the curve."""
        behavior, doses = self.behavior, sizes.doses
        labeled = self._tokens(some_of_each(behavior.validation, TEXTS_PER_KIND))
        screened = min(NEUTRAL_TEXTS, sizes.neutral_texts)
        neutral = self._tokens(behavior.validation_neutral[:screened])
        prompts = behavior.validation_prompts[: sizes.validation_prompts]
        rounds = math.ceil(CONTINUATIONS / max(1, len(prompts)))
        base = PlannedStage("base model", reads=labeled + neutral)
        curve = self._continued("dose-response", prompts, doses * rounds)
        curve = replace(curve, reads=doses * labeled + (doses + 1) * neutral)
        if not self.recipe.is_searched:
            # Where several steps are tried, their edit has a strength of its own to be found.
            strengths = STRENGTHS * (2 if self.recipe.tried_steps > 1 else 1)
            reads = strengths * labeled + 2 * strengths * neutral
            return [base, PlannedStage("strength", reads=reads), curve]
        trials = self.recipe.trials or AT_A_TIME
        shared = (AT_A_TIME + 1) / AT_A_TIME
        return [
            base,
            PlannedStage("trials", reads=trials * (labeled + shared * neutral)),
            self._continued("survivors", prompts, (1 + min(trials, SURVIVORS)) * rounds),
            curve,
        ]

    def _after(self, sizes: Sizes) -> list[PlannedStage]:
        """The damage, the measurement and the look inside."""
        behavior, neutral = self.behavior, self.behavior.test_neutral
        prompts = behavior.prompt_sets[0].texts[: sizes.prompt_count]
        shown = some_of_each(behavior.test, INSIDE_TEXTS)
        inside = self._tokens(shown) + self._tokens(neutral[:INSIDE_TEXTS])
        return [
            PlannedStage("damage", reads=3 * self._tokens(neutral[: sizes.neutral_texts])),
            self._continued("held-out prompts", prompts, 2 * (sizes.samples + 1)),
            PlannedStage("looking inside", reads=2 * inside),
        ]

    def _continued(self, name: str, prompts: Sequence[str], rounds: int) -> PlannedStage:
        """Prompts that are continued so many times."""
        new_tokens = rounds * len(prompts) * self.behavior.prompt_sets[0].max_new_tokens
        return PlannedStage(name, prompts=rounds * self._tokens(prompts), writes=new_tokens)

    def _tokens(self, texts: Sequence[LabeledText | str], cut: int | None = None) -> float:
        """Tokens of texts, from the lengths of the first of them."""
        read: list[Text] = [
            one if isinstance(one, str) else self.model.render(one) for one in texts[:LOOKED_AT]
        ]
        if not read:
            return 0.0
        lengths = [len(ids[:cut]) for ids in self.model.token_ids(read)]
        return sum(lengths) / len(lengths) * len(texts)
