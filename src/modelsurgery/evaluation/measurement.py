"""One measurement of an edit: behavior, facts and language modelling, base against edited."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from modelsurgery.data.behaviors import PromptSet
from modelsurgery.edit.edit import Edit
from modelsurgery.errors import EvaluationError
from modelsurgery.evaluation.generation import Decoding, TransformersGenerator
from modelsurgery.evaluation.judges import Judge, Verdict
from modelsurgery.evaluation.judges.verdicts import UNKNOWN
from modelsurgery.evaluation.statistics import PairedChange, Rate, paired_change, rate_of
from modelsurgery.evaluation.store import Store, judged
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel

FACT_TOKENS = 8


@dataclass(frozen=True)
class Sample:
    """One prompt with its continuation before and after.

    Attributes:
        prompt: the prompt.
        seed: of sampling; None is greedy.
        base: continuation of the base model.
        edited: continuation of the edited model.
        base_verdict: what the judge says of the one.
        edited_verdict: what the judge says of the other.
    """

    prompt: str
    seed: int | None
    base: str
    edited: str
    base_verdict: Verdict
    edited_verdict: Verdict


@dataclass(frozen=True)
class BehaviorMeasurement:
    """How often the behavior shows, before and after, on the same prompts.

    Attributes:
        base: rate of the base model.
        edited: rate of the edited model.
        change: the paired difference.
        base_verdicts: how many samples got each verdict, before.
        edited_verdicts: the same, after.
        samples: everything that was generated, with its verdicts.
    """

    base: Rate
    edited: Rate
    change: PairedChange
    base_verdicts: dict[Verdict, int]
    edited_verdicts: dict[Verdict, int]
    samples: tuple[Sample, ...]

    @property
    def reduction(self) -> float | None:
        """Share of the behavior that is gone, 1 - edited / base; None where there was none."""
        return 1 - self.edited.rate / self.base.rate if self.base.rate else None


def measure_behavior(
    model: LanguageModel,
    edits: Sequence[Edit],
    prompts: Sequence[str],
    judge: Judge,
    decodings: Sequence[Decoding],
    *,
    counted: Verdict = "behavior",
    store: Store | None = None,
    progress: Progress = silent,
) -> BehaviorMeasurement:
    """Continue every prompt with the base and the edited model and let the judge look at both.

    Args:
        model: the base model.
        edits: edits to compare it with.
        prompts: the prompts.
        judge: says what a continuation shows.
        decodings: one round of samples each, with the same seed for both models.
        counted: the verdict that rates count.
        store: where continuations and judgements are looked up and kept.
        progress: is told of prompts done.

    Raises:
        EvaluationError: no prompt got a continuation from both models.
    """
    generator = TransformersGenerator(model, store=store)
    samples: list[Sample] = []
    for decoding in decodings:
        before, after = (
            _texts(generator, prompts, decoding, some, progress) for some in ((), edits)
        )
        verdicts = (
            judged(judge, prompts, texts, store, progress=progress) for texts in (before, after)
        )
        rounds = zip(prompts, before, after, *verdicts, strict=True)
        samples.extend(
            Sample(prompt, decoding.seed, base, changed, base_verdict, edited_verdict)
            for prompt, base, changed, base_verdict, edited_verdict in rounds
        )
    return summarize(samples, len(prompts), counted)


def summarize(
    samples: Sequence[Sample], prompt_count: int, counted: Verdict = "behavior"
) -> BehaviorMeasurement:
    """Rates over prompts from samples, which come in rounds of `prompt_count`.

    A failed (empty) continuation says nothing about the behavior, nor does one that the judge could
    not judge: it is left out of its prompt's rate on that side, and counted in the verdicts. A
    prompt without any other is left out.

    Raises:
        EvaluationError: no prompt is left.
    """
    pairs = []
    for number in range(prompt_count):
        of_prompt = samples[number::prompt_count]
        base = _prompt_rate([sample.base_verdict for sample in of_prompt], counted)
        after = _prompt_rate([sample.edited_verdict for sample in of_prompt], counted)
        if base is not None and after is not None:
            pairs.append((base, after))
    if not pairs:
        raise EvaluationError(
            "no prompt got a continuation from both models; the edit broke the "
            "model (take a smaller strength) or the prompts end a text"
        )
    base_rates, edited_rates = zip(*pairs, strict=True)
    return BehaviorMeasurement(
        rate_of(base_rates),
        rate_of(edited_rates),
        paired_change(base_rates, edited_rates),
        _counts([sample.base_verdict for sample in samples]),
        _counts([sample.edited_verdict for sample in samples]),
        tuple(samples),
    )


def _prompt_rate(verdicts: Sequence[Verdict], counted: Verdict) -> float | None:
    judged = [verdict for verdict in verdicts if verdict not in UNKNOWN]
    return judged.count(counted) / len(judged) if judged else None


def _counts(verdicts: Sequence[Verdict]) -> dict[Verdict, int]:
    counts = Counter(verdicts)
    return {kind: counts[kind] for kind in get_args(Verdict)}


def decoding_of(prompts: PromptSet, seed: int | None = None) -> Decoding:
    """How a set of prompts is continued: greedily, or sampled with a seed."""
    return Decoding(prompts.max_new_tokens, seed, stop=prompts.stop, chat=prompts.is_chat)


def prompt_rates(
    model: LanguageModel,
    prompts: Sequence[str],
    judge: Judge,
    decodings: Sequence[Decoding],
    store: Store | None = None,
    edits: Sequence[Edit] = (),
    *,
    progress: Progress = silent,
) -> list[float]:
    """Share of each prompt's continuations that show the behavior, with edits in memory.

    Failed continuations and those that could not be judged are left out, and a prompt that has no
    other: a broken model has none.
    """
    generator = TransformersGenerator(model, store=store)
    shown: list[list[float]] = [[] for _ in prompts]
    for decoding in decodings:
        continuations = _texts(generator, prompts, decoding, edits, progress)
        verdicts = judged(judge, prompts, continuations, store, progress=progress)
        for found, verdict in zip(shown, verdicts, strict=True):
            if verdict not in UNKNOWN:
                found.append(float(verdict == "behavior"))
    return [sum(found) / len(found) for found in shown if found]


def measure_facts(
    model: LanguageModel,
    edits: Sequence[Edit],
    facts: Sequence[tuple[str, str]],
    *,
    progress: Progress = silent,
) -> tuple[Rate, Rate]:
    """Exact match of greedy answers, base and edited, over (prompt, answer) pairs."""
    with progress("facts", 2) as advance:
        base = facts_right(model, (), facts, progress=progress)
        advance(1)
        return base, facts_right(model, edits, facts, progress=progress)


def facts_right(
    model: LanguageModel,
    edits: Sequence[Edit],
    facts: Sequence[tuple[str, str]],
    *,
    progress: Progress = silent,
) -> Rate:
    """Exact match of greedy answers of one model, over (prompt, answer) pairs."""
    prompts = [prompt for prompt, _ in facts]
    texts = _texts(TransformersGenerator(model), prompts, Decoding(FACT_TOKENS), edits, progress)
    return rate_of(
        [
            float(_answer(text) == answer.lower())
            for text, (_, answer) in zip(texts, facts, strict=True)
        ]
    )


def _texts(
    generator: TransformersGenerator,
    prompts: Sequence[str],
    decoding: Decoding,
    edits: Sequence[Edit] = (),
    progress: Progress = silent,
) -> list[str]:
    made = generator.generate(prompts, decoding, edits, progress=progress)
    return [one.text for one in made]


def _answer(continuation: str) -> str:
    """The continuation up to the first full stop or line break, in lower case."""
    return re.split(r"[.\n]", continuation.strip(), maxsplit=1)[0].strip().lower()
