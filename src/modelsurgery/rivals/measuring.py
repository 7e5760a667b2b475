"""Measuring methods alike: the same divergence, held-out prompts, decodings and judges."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from modelsurgery.data.behaviors import PromptSet
from modelsurgery.errors import EvaluationError
from modelsurgery.evaluation.capability import TaskResult, measure_capability
from modelsurgery.evaluation.decoding import Decoding, Speed
from modelsurgery.evaluation.generation import TransformersGenerator
from modelsurgery.evaluation.judges import Judge
from modelsurgery.evaluation.protocol import (
    Side,
    compare_sides,
    decodings_of,
    measure_sides,
)
from modelsurgery.evaluation.screening import Screen
from modelsurgery.evaluation.store import Store
from modelsurgery.files.atomic import sha256_json
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.results import Rate
from modelsurgery.results.rivals import Cost, RivalRow
from modelsurgery.rivals.cost import Taken, taking
from modelsurgery.rivals.intervention import Intervention
from modelsurgery.rivals.matching import Matched, match_divergence
from modelsurgery.rivals.method import Materials, Method


@dataclass(frozen=True)
class Bench:
    """What all methods are measured on, and what the base model gives there."""

    given: Materials  # what methods learn from, with the base model
    prompts: PromptSet  # held-out prompts
    test: Screen  # held-out texts, labeled and neutral
    judges: Sequence[Judge]  # the first decides
    store: Store  # keeps what is generated and judged
    tasks: Sequence[str] = ()  # capability tasks
    data: Path | None = None  # directory with local copies of data sets
    task_limit: int | None = None  # items of a task, at most
    progress: Progress = silent  # is told what is going on

    def rows(self, method: Method, targets: Sequence[float]) -> Iterator[RivalRow]:
        """Fit a method once, and measure it at each divergence.

        Raises:
            SurgeryError: the method does not work on this model or with these texts, or it broke
                the model.
        """
        with taking() as taken:
            found = method.fit(self.given)
        for target in sorted(targets):
            matched = self.match(found, target)
            yield self.row(method, found, matched, target, taken)

    def match(self, found: Intervention, target: float) -> Matched:
        """The strength at which an intervention costs a divergence on validation text."""
        screen = self.given.validation

        def divergence(strength: float) -> float:
            with found.applied(self.given.model, strength):
                return screen.measure_changed(progress=self.progress).worst_divergence

        with self.progress("strength", 0):
            return match_divergence(divergence, target, first=found.first, most=found.most)

    def row(
        self, method: Method, found: Intervention, matched: Matched, target: float, taken: Taken
    ) -> RivalRow:
        """Measure an intervention at a strength."""
        given = self.given
        key = [given.model.fingerprint(), method.name, method.settings, given.seed, given.sign]
        key += [sha256_json([text.text for text in (*given.shows, *given.opposite)])]
        changed = replace(given.model, _fingerprint=[sha256_json([*key, matched.strength])])
        base = self.base
        with found.applied(given.model, matched.strength):
            effect = self.test.measure_changed(progress=self.progress)
            if not effect.is_finite:
                raise EvaluationError(
                    f"{method.name} at strength {matched.strength:.3g}: no numbers"
                )
            edited = self.measured(changed)
            tasks = self.task_rates(changed)
        measured = {
            name: compare_sides(prompts, decodings, base.sides[name], edited.sides[name])
            for name, (prompts, decodings) in self.rounds.items()
        }
        sampled, uncalled = measured["sampled"], measured.get("uncalled")
        return RivalRow(
            method=method.name,
            seed=given.seed,
            target=target,
            strength=matched.strength,
            is_met=matched.is_met,
            divergence=effect.worst_divergence,
            perplexity_rise=math.expm1(effect.clean),
            selectivity=effect.selectivity,
            hits_lost=effect.capability_lost,
            greedy=measured["greedy"].whole,
            sampled=sampled.whole,
            uncalled=None if uncalled is None else uncalled.whole,
            other_judges=sampled.other_judges,
            agreement={name: one.kappa for name, one in sampled.agreement.items()},
            tasks={name: (self.base_tasks[name], rate) for name, rate in tasks.items()},
            cost=Cost(
                fit_seconds=round(taken.seconds, 2),
                peak_bytes=taken.peak_bytes,
                tokens_per_second=edited.tokens_per_second,
                base_tokens_per_second=base.tokens_per_second,
                touched=found.touched,
            ),
        )

    @cached_property
    def rounds(self) -> dict[str, tuple[PromptSet, tuple[Decoding, ...]]]:
        """What a model continues, and how: `greedy`, `sampled`, and `uncalled` where there are any.

        The last are prompts that do not call for the behavior.
        """
        samples = {"greedy": (self.prompts, 0), "sampled": (self.prompts, 1)}
        if self.given.behavior.test_uncalled is not None:
            samples["uncalled"] = self.given.behavior.test_uncalled, 0
        return {
            name: (prompts, decodings_of(prompts, count, self.given.seed))
            for name, (prompts, count) in samples.items()
        }

    @cached_property
    def base(self) -> "Answers":
        """What the base model gives."""
        return self.measured(self.given.model)

    @cached_property
    def base_tasks(self) -> dict[str, Rate]:
        """Scores of the base model."""
        return self.task_rates(self.given.model)

    def measured(self, model: LanguageModel) -> "Answers":
        """Let a model, as it is now, continue all prompts."""
        generator = TransformersGenerator(model, store=self.store)
        described = self.given.behavior.described.uncalled_for
        fault = "behavior" if described is None else described.verdict
        sides = {}
        for name, (prompts, decodings) in self.rounds.items():
            (sides[name],) = measure_sides(
                generator,
                [()],
                prompts.texts,
                self.judges[:1] if name == "uncalled" else self.judges,
                decodings,
                counted=fault if name == "uncalled" else "behavior",
                store=self.store,
                progress=self.progress,
            )
        return Answers(sides, _rate_of(generator.speed))

    def task_rates(self, model: LanguageModel) -> dict[str, Rate]:
        """Scores of a model, as it is now."""
        found = measure_capability(
            model, (), self.tasks, data=self.data, limit=self.task_limit, progress=self.progress
        )
        return {name: one.base for name, one in found.items() if isinstance(one, TaskResult)}


@dataclass(frozen=True)
class Answers:
    """What a model gave on the prompts, by name of the round, and how fast."""

    sides: dict[str, Side]
    tokens_per_second: float | None  # None where all of it was in the store


def _rate_of(speed: Speed) -> float | None:
    seconds = speed.prefill_seconds + speed.decode_seconds
    return round(speed.decode_tokens / seconds, 1) if seconds else None
