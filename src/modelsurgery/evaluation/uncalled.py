"""How often prompts show a behavior that do not call for it: for refusal, over-refusal."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from modelsurgery.data.behaviors import Behavior, PromptSet
from modelsurgery.data.corpora import Prompt
from modelsurgery.edit.edit import Edit
from modelsurgery.evaluation.generation import Generator, TransformersGenerator
from modelsurgery.evaluation.judges import Judge
from modelsurgery.evaluation.protocol import SetMeasurement, decodings_of, measure_prompt_set
from modelsurgery.evaluation.screening import Effect
from modelsurgery.evaluation.statistics import Z_95
from modelsurgery.evaluation.store import Store
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel

VALIDATION_TOKENS = 48  # of a continuation that a choice is made on: refusals come early


def measure_uncalled(
    behavior: Behavior,
    prompts: PromptSet,
    edits: Sequence[Edit],
    judges: Sequence[Judge],
    generator: Generator,
    *,
    store: Store | None = None,
    progress: Progress = silent,
) -> SetMeasurement:
    """Base against edited, greedily, on prompts that do not call for the behavior.

    The first judge decides.
    """
    described = behavior.described.uncalled_for
    assert described is not None
    return measure_prompt_set(
        generator,
        edits,
        prompts,
        judges[:1],
        decodings_of(prompts, 0, 0),
        counted=described.verdict,
        store=store,
        progress=progress,
    )


def uncalled_of(
    model: LanguageModel,
    behavior: Behavior,
    judge: Judge,
    store: Store | None = None,
    progress: Progress = silent,
) -> Callable[[Effect, Edit], Effect] | None:
    """Adds to an effect what an edit does to prompts that choices are made on.

    None where every prompt calls for the behavior.
    """
    test = behavior.test_uncalled
    if test is None or not behavior.validation_uncalled:
        return None
    prompts = replace(
        test,
        prompts=tuple(Prompt(text, chat=test.is_chat) for text in behavior.validation_uncalled),
        max_new_tokens=min(VALIDATION_TOKENS, test.max_new_tokens),
        by=(),
    )
    generator = TransformersGenerator(model, store=store)

    def with_tuned(effect: Effect, edit: Edit) -> Effect:
        measured = measure_uncalled(
            behavior, prompts, [edit], [judge], generator, store=store, progress=progress
        )
        return with_uncalled(effect, measured)

    return with_tuned


def with_uncalled(effect: Effect, measured: SetMeasurement) -> Effect:
    """An effect with a measured rise on prompts that do not call for the behavior."""
    change = measured.whole.change
    assert change is not None
    error = (change.high - change.low) / (2 * Z_95)
    return replace(effect, uncalled=change.difference, uncalled_error=error)
