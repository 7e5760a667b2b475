"""How fast a model reads and writes on this machine, from a few seconds of each."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat

import torch

from modelsurgery.data.behaviors import Behavior
from modelsurgery.evaluation.generation import Decoding, TransformersGenerator
from modelsurgery.evaluation.predictions import predict
from modelsurgery.evaluation.protocol import decodings_of
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.activations.losses import Reader
from modelsurgery.model.activations.texts import TokenizedText, text_batches, tokenize_labeled
from modelsurgery.model.language_model import LanguageModel

# Of one kind of work, for a rate. Tokens go through faster the more of them share a batch: twice as
# fast with 64 short texts as with 8, and new ones by a third with 64 prompts instead of 16.
ENOUGH_SECONDS = 6.0
ENOUGH_SECONDS_OF_WRITING = 8.0
# What comes in the way for a moment may make the first round many times slower.
LEAST_ROUNDS = 3
MOST_SECONDS = 20.0
MOST_TEXTS, MOST_TOKENS = 64, 1024
MOST_PROMPTS, NEW_TOKENS = 64, 8


@dataclass(frozen=True)
class Pace:
    """Tokens a second."""

    reads: float  # forward, with the head
    learns: float  # forward and back
    prompts: float  # of prompts, until their first new token
    writes: float  # new tokens, many prompts at a time


def measure_pace(model: LanguageModel, behavior: Behavior, *, progress: Progress = silent) -> Pace:
    """Read a few of a behavior's texts and continue some of its validation prompts.

    More of them the faster it goes; nothing is kept.
    """
    texts = tokenize_labeled(model, behavior.train[:MOST_TEXTS])
    with progress("calibrate", 3) as advance:
        reader = Reader(model)
        reads = _rate(texts, partial(_read, model))
        advance(1)
        most_tokens = min(MOST_TOKENS, reader.batch_tokens)
        learns = _rate(texts, partial(_learn, model, reader), most_tokens)
        advance(1)
        prompts, writes = _writing(model, behavior)
        advance(1)
    return Pace(reads, learns, prompts, writes)


def _rate(
    texts: Sequence[TokenizedText],
    work: Callable[[Sequence[TokenizedText]], object],
    most_tokens: int = MOST_TOKENS,
) -> float:
    """Tokens a second of some work: the best of several rounds.

    What else the machine does makes a round slower, never faster.
    """
    work(texts[:1])  # what is done once only is not counted
    counts = [2]
    while counts[-1] < len(texts):
        count = 2 * counts[-1]
        if count * max(len(one.ids) for one in texts[: counts[-1]]) > most_tokens:
            break
        counts.append(count)
    best = 0.0
    for count in _rounds(counts, ENOUGH_SECONDS):
        some = texts[:count]
        started = time.perf_counter()
        work(some)
        seconds = max(time.perf_counter() - started, 1e-6)
        best = max(best, sum(len(one.ids) for one in some) / seconds)
    return best


def _rounds(counts: Sequence[int], enough_seconds: float) -> Iterator[int]:
    """How many texts each round takes, the last number as often as it needs to be relied on."""
    started = time.perf_counter()
    for number, count in enumerate(chain(counts, repeat(counts[-1])), 1):
        yield count
        spent = time.perf_counter() - started
        is_long = count == counts[-1] or spent >= enough_seconds
        if (is_long and number >= LEAST_ROUNDS) or spent >= MOST_SECONDS:
            return


def _read(model: LanguageModel, texts: Sequence[TokenizedText]) -> None:
    for batch in text_batches(model, texts, 2 * MOST_TOKENS):
        with torch.inference_mode():
            predict(model.model, batch.inputs, [()])


def _learn(model: LanguageModel, reader: Reader, texts: Sequence[TokenizedText]) -> None:
    for batch in text_batches(model, texts, reader.batch_tokens):
        reader.backward(batch)


def _writing(model: LanguageModel, behavior: Behavior) -> tuple[float, float]:
    """Tokens of prompts, and new ones, a second."""
    (usual,) = decodings_of(behavior.prompt_sets[0], 0, 0)
    decoding = Decoding(min(NEW_TOKENS, usual.max_new_tokens), chat=usual.chat)
    counts = [4]
    while counts[-1] < min(MOST_PROMPTS, len(behavior.validation_prompts)):
        counts.append(2 * counts[-1])
    prompts = writes = 0.0
    for count in _rounds(counts, ENOUGH_SECONDS_OF_WRITING):
        generator = TransformersGenerator(model)
        generator.generate(behavior.validation_prompts[:count], decoding)
        speed = generator.speed
        prompts = max(prompts, speed.prefill_tokens / max(speed.prefill_seconds, 1e-6))
        writes = max(writes, max(speed.decode_tokens, 1) / max(speed.decode_seconds, 1e-6))
    return prompts, writes
