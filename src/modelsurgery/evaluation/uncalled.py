"""How often prompts show a behavior that do not call for it: for refusal, over-refusal."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from modelsurgery.data.behaviors import Behavior
from modelsurgery.edit.edit import Edit
from modelsurgery.evaluation.judges import Judge
from modelsurgery.evaluation.measurement import BehaviorMeasurement, decoding_of, measure_behavior
from modelsurgery.evaluation.screening import Effect
from modelsurgery.evaluation.statistics import Z_95
from modelsurgery.evaluation.store import Store
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel

TUNING_TOKENS = 48  # of a continuation that a choice is made on: refusals come early


@dataclass(frozen=True)
class Uncalled:
    """Measures a behavior on prompts that do not call for it, greedily.

    Attributes:
        model: the base model.
        behavior: has such prompts.
        judge: says what a continuation shows.
        store: where continuations and judgements are looked up and kept.
        progress: is told of prompts done.
    """

    model: LanguageModel
    behavior: Behavior
    judge: Judge
    store: Store | None = None
    progress: Progress = silent

    def held_out(self, edit: Edit) -> BehaviorMeasurement:
        """Base against edited on held-out prompts."""
        assert self.behavior.uncalled is not None
        return self._measured(edit, self.behavior.uncalled.texts, None)

    def tuned(self, effect: Effect, edit: Edit) -> Effect:
        """An effect with what the edit does to prompts that choices are made on."""
        prompts = self.behavior.tuning_uncalled
        return with_uncalled(effect, self._measured(edit, prompts, TUNING_TOKENS))

    def _measured(
        self, edit: Edit, prompts: Sequence[str], most_tokens: int | None
    ) -> BehaviorMeasurement:
        described, of = self.behavior.described.uncalled_for, self.behavior.uncalled
        assert described is not None
        assert of is not None
        decoding = decoding_of(of)
        if most_tokens is not None:
            decoding = replace(decoding, max_new_tokens=min(most_tokens, decoding.max_new_tokens))
        return measure_behavior(
            self.model,
            [edit],
            prompts,
            self.judge,
            [decoding],
            counted=described.verdict,
            store=self.store,
            progress=self.progress,
        )


def uncalled_of(
    model: LanguageModel,
    behavior: Behavior,
    judge: Judge,
    store: Store | None = None,
    progress: Progress = silent,
) -> Uncalled | None:
    """The measure, or None where every prompt calls for the behavior."""
    if behavior.uncalled is None or not behavior.tuning_uncalled:
        return None
    return Uncalled(model, behavior, judge, store, progress)


def with_uncalled(effect: Effect, measured: BehaviorMeasurement) -> Effect:
    """An effect with a measured rise on prompts that do not call for the behavior."""
    change = measured.change
    error = (change.high - change.low) / (2 * Z_95)
    return replace(effect, uncalled=change.difference, uncalled_error=error)
