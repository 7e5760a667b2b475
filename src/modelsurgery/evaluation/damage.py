"""What an edit may have broken: neutral text, own answers, facts, prompts that it should leave."""

from collections.abc import Sequence
from dataclasses import dataclass

from modelsurgery.data.behaviors import Behavior
from modelsurgery.data.texts import LabeledText
from modelsurgery.edit.edit import Edit
from modelsurgery.evaluation.facts import FactsMeasurement, measure_facts
from modelsurgery.evaluation.generation import Generator
from modelsurgery.evaluation.judges import Judge
from modelsurgery.evaluation.language_modelling import (
    LanguageModelling,
    compare_language_modelling,
    sum_over_texts,
)
from modelsurgery.evaluation.own_answers import own_answers
from modelsurgery.evaluation.protocol import SetMeasurement
from modelsurgery.evaluation.screening import Effect, effect_of
from modelsurgery.evaluation.store import Store
from modelsurgery.evaluation.uncalled import measure_uncalled, with_uncalled
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel


@dataclass(frozen=True)
class Damage:
    """What was measured beside the behavior."""

    # Neutral text; None with a backend that only generates.
    neutral: LanguageModelling | None = None
    # The model's own answers to harmless requests; None where the behavior does not depend on the
    # request, or without an edit.
    own: LanguageModelling | None = None
    own_count: int = 0  # how many answers
    facts: FactsMeasurement | None = None  # None where there are none
    # Prompts that do not call for the behavior; None where there are none.
    uncalled: SetMeasurement | None = None

    @property
    def effect(self) -> Effect:
        """The same as what a budget limits, with errors; of neutral text and an edit."""
        assert self.neutral is not None
        own = 0.0, 0.0
        if self.own is not None:
            assert self.own.divergence is not None
            assert self.own.divergence_error is not None
            own = self.own.divergence, self.own.divergence_error
        effect = effect_of(self.neutral, None if self.facts is None else self.facts.lost, own)
        return effect if self.uncalled is None else with_uncalled(effect, self.uncalled)


def measure_damage(
    model: LanguageModel,
    edits: Sequence[Edit],
    behavior: Behavior,
    judges: Sequence[Judge],
    generator: Generator,
    *,
    is_read: bool = True,
    store: Store | None = None,
    progress: Progress = silent,
) -> Damage:
    """Measure what edits, applied together, may have broken on held-out text.

    Without edits the base model alone is measured. The first judge decides what prompts show that
    do not call for the behavior. Unless the model `is_read`, only what is generated is measured.

    Raises:
        EvaluationError: the neutral texts have no token to predict.
    """
    neutral = own = facts = uncalled = None
    answers: list[LabeledText] = []
    if is_read:
        neutral = compare_language_modelling(model, behavior.test_neutral, edits, progress=progress)
        if edits:
            answers = own_answers(model, behavior.test, store=store, progress=progress)
        if answers:
            replies = [model.reply_ids(one) for one in answers]
            with progress("replies", len(replies)) as advance:
                own = sum_over_texts(model, replies, [(), edits], advance=advance).compared()
        if behavior.test_facts:
            facts = measure_facts(generator, edits, behavior.test_facts, progress=progress)
    prompts = behavior.test_uncalled
    if prompts is not None:
        uncalled = measure_uncalled(
            behavior, prompts, edits, judges, generator, store=store, progress=progress
        )
    return Damage(neutral, own, len(answers), facts, uncalled)
