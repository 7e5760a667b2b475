"""Whether continuations still read like text: a broken model also stops being rude."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from modelsurgery.evaluation.decoding import Continuation
from modelsurgery.evaluation.statistics import paired_change
from modelsurgery.results import Change

GRAM = 4


@dataclass(frozen=True)
class Quality:
    """What continuations are like, whatever they say."""

    mean_tokens: float  # new tokens, mean
    unfinished: float  # share that the limit of tokens cut off
    failed: float  # share that is empty
    repetition: float  # share of repeated 4-grams, mean over continuations that have four words

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class QualityChange:
    """Quality of base and edited model on the same prompts, and paired changes of the shares."""

    base: Quality
    edited: Quality
    repetition: Change
    unfinished: Change
    failed: Change

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "base": self.base.to_json(),
            "edited": self.edited.to_json(),
            "repetition": self.repetition.model_dump(exclude={"verdict"}),
            "unfinished": self.unfinished.model_dump(exclude={"verdict"}),
            "failed": self.failed.model_dump(exclude={"verdict"}),
        }


def repetition_of(text: str) -> float:
    """1 - different / all 4-grams of words; 0 for fewer than four words.

    Seq-rep-4 of Welleck et al. (2020), Neural Text Generation with Unlikelihood Training, with
    words in place of tokens, so that models with other tokenizers can be compared.
    """
    words = text.split()
    grams = [tuple(words[place : place + GRAM]) for place in range(len(words) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def measure_quality(continuations: Sequence[Continuation]) -> Quality:
    """Quality of at least one continuation."""
    long = [one.text for one in continuations if len(one.text.split()) >= GRAM]
    return Quality(
        float(np.mean([one.tokens for one in continuations])),
        float(np.mean([not one.is_finished for one in continuations])),
        float(np.mean([not one.text.strip() for one in continuations])),
        float(np.mean([repetition_of(text) for text in long])) if long else 0.0,
    )


def compare_quality(base: Sequence[Continuation], edited: Sequence[Continuation]) -> QualityChange:
    """Quality before and after; continuations of the same prompts in the same order."""

    def change(measure: Callable[[Continuation], float]) -> Change:
        return paired_change([measure(one) for one in base], [measure(one) for one in edited])

    return QualityChange(
        measure_quality(base),
        measure_quality(edited),
        repetition=change(lambda one: repetition_of(one.text)),
        unfinished=change(lambda one: not one.is_finished),
        failed=change(lambda one: not one.text.strip()),
    )
