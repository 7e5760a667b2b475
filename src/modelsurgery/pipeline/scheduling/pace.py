"""How fast a model reads and writes on this machine, from a few seconds of each."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from modelsurgery.data.behaviors import Behavior
from modelsurgery.evaluation.generation import Decoding, TransformersGenerator
from modelsurgery.evaluation.predictions import predict
from modelsurgery.evaluation.protocol import decodings_of
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.activations.losses import Reader
from modelsurgery.model.activations.texts import TokenizedText, text_batches, tokenize_labeled
from modelsurgery.model.language_model import LanguageModel

ENOUGH_SECONDS = 2.0  # of one kind of work, for a rate
# New tokens come faster the more prompts share a batch: up to a third from 16 prompts to 64.
ENOUGH_SECONDS_OF_WRITING = 8.0
# What comes in the way for a moment may make the first round many times slower.
LEAST_ROUNDS = 3
MOST_SECONDS = 20.0
MOST_TEXTS, MOST_TOKENS = 64, 1024
MOST_PROMPTS, NEW_TOKENS = 64, 8


@dataclass(frozen=True)
class Pace:
    """Tokens a second.

    Attributes:
        reads: forward, with the head.
        learns: forward and back.
        prompts: of prompts, until their first new token.
        writes: new tokens, many prompts at a time.
    """

    reads: float
    learns: float
    prompts: float
    writes: float


def measure_pace(model: LanguageModel, behavior: Behavior, *, progress: Progress = silent) -> Pace:
    """Read and continue a few of a behavior's texts, more of them the faster it goes.

    Args:
        model: the model.
        behavior: its texts and validation prompts are used; nothing is kept.
        progress: is told of the three kinds of work.
    """
    texts = tokenize_labeled(model, behavior.train[:MOST_TEXTS])
    with progress("calibrate", 3) as advance:
        reader = Reader(model)
        reads = _rate(model, texts, lambda some: _read(model, some))
        advance(1)
        learns = _rate(
            model, texts, lambda some: _learn(model, reader, some), most_tokens=reader.batch_tokens
        )
        advance(1)
        prompts, writes = _writing(model, behavior)
        advance(1)
    return Pace(reads, learns, prompts, writes)


@dataclass
class _Rounds:
    """The rounds of one kind of work so far."""

    enough_seconds: float
    count: int = 0
    seconds: float = 0.0

    def are_enough(self, seconds: float, *, is_largest: bool) -> bool:
        """Count a round that took so long; whether its best rate can be relied on."""
        self.count += 1
        self.seconds += seconds
        is_long = is_largest or self.seconds >= self.enough_seconds
        return (is_long and self.count >= LEAST_ROUNDS) or self.seconds >= MOST_SECONDS


def _rate(
    model: LanguageModel,
    texts: list[TokenizedText],
    work: Callable[[list[TokenizedText]], object],
    *,
    most_tokens: int = MOST_TOKENS,
) -> float:
    """Tokens a second of some work: the best of several rounds, each of twice as many texts.

    What else the machine does makes a round slower, never faster.
    """
    work(texts[:1])  # what is done once only is not counted
    count, best, clock = 2, 0.0, _Rounds(ENOUGH_SECONDS)
    while True:
        some = texts[:count]
        width = max(len(one.ids) for one in some)
        started = time.perf_counter()
        work(some)
        seconds = max(time.perf_counter() - started, 1e-6)
        best = max(best, sum(len(one.ids) for one in some) / seconds)
        is_largest = count >= len(texts) or 2 * count * width > min(MOST_TOKENS, most_tokens)
        if clock.are_enough(seconds, is_largest=is_largest):
            return best
        if not is_largest:
            count *= 2


def _read(model: LanguageModel, texts: list[TokenizedText]) -> None:
    for batch in text_batches(model, texts, 2 * MOST_TOKENS):
        with torch.inference_mode():
            predict(model.model, batch.inputs, [()])


def _learn(model: LanguageModel, reader: Reader, texts: list[TokenizedText]) -> None:
    for batch in text_batches(model, texts, reader.batch_tokens):
        reader.backward(batch)


def _writing(model: LanguageModel, behavior: Behavior) -> tuple[float, float]:
    """Tokens of prompts, and new ones, a second."""
    (usual,) = decodings_of(behavior.prompt_sets[0], 0, 0)
    decoding = Decoding(min(NEW_TOKENS, usual.max_new_tokens), chat=usual.chat)
    count, prompts, writes, clock = 4, 0.0, 0.0, _Rounds(ENOUGH_SECONDS_OF_WRITING)
    while True:
        generator = TransformersGenerator(model)
        generator.generate(behavior.validation_prompts[:count], decoding)
        speed = generator.speed
        prompts = max(prompts, speed.prefill_tokens / max(speed.prefill_seconds, 1e-6))
        writes = max(writes, max(speed.decode_tokens, 1) / max(speed.decode_seconds, 1e-6))
        is_largest = count >= min(MOST_PROMPTS, len(behavior.validation_prompts))
        seconds = speed.prefill_seconds + speed.decode_seconds
        if clock.are_enough(seconds, is_largest=is_largest):
            return prompts, writes
        if not is_largest:
            count *= 2
