"""Generation with the loaded model, through transformers."""

import hashlib
import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import transformers
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from modelsurgery.apply.in_memory import edited
from modelsurgery.apply.loaded_weights import available_bytes
from modelsurgery.edit.edit import Edit
from modelsurgery.evaluation.decoding import Continuation, Decoding, Rounds, Speed, content_of
from modelsurgery.evaluation.generation.reading import Reading, end_tokens, is_chat, readings
from modelsurgery.evaluation.generation.sampling import (
    FirstToken,
    StopText,
    TokenCount,
    UniformSampling,
)
from modelsurgery.evaluation.generation.thinking import answer_and_thought
from modelsurgery.files.atomic import sha256_json
from modelsurgery.files.progress import Advance, Progress, silent
from modelsurgery.model.language_model import LanguageModel

if TYPE_CHECKING:
    from modelsurgery.evaluation.store import Store

CACHE_BYTES = 96 << 20  # for keys and values, on a CPU: larger ones are paged in at every step
CACHE_SHARE = 0.25  # of a GPU's free memory
MOST_PROMPTS = 256  # of a batch; more gain nothing
MOST_SCORES = 1 << 24  # prompts × vocabulary on a CPU: 64 MB, of which transformers keeps copies


class _Job(NamedTuple):
    """A prompt that is to be continued; the key hashes all that comes of it."""

    reading: Reading
    decoding: Decoding
    key: str


class TransformersGenerator:
    """Continues prompts with a loaded model; edits are applied in memory.

    Prompts of similar length share a batch, padded on the left. The batches depend on prompts and
    decodings alone, so an interrupted run computes what a whole one does. Of the model's own
    generation settings its end tokens hold, and nothing else: no top-k, no repetition penalty, so
    that base and edited model are seen as they are. A prompt that is too long for the model's
    context loses its beginning (`reading`).
    """

    def __init__(
        self, model: LanguageModel, *, store: "Store | None" = None, batch_tokens: int | None = None
    ) -> None:
        """Describe the model; nothing is generated yet.

        `batch_tokens` are those of prompts and continuations in one batch, padding included; None
        takes what the memory holds.
        """
        self.name = f"transformers {transformers.__version__}"
        self.speed = Speed()
        self._model, self._store = model, store
        self._batch_tokens = batch_tokens or _batch_tokens(model)

    def generate(
        self,
        prompts: Sequence[str],
        decoding: Decoding,
        edits: Sequence[Edit] = (),
        *,
        progress: Progress = silent,
    ) -> tuple[Continuation, ...]:
        """One continuation a prompt, in the order of the prompts; equal prompts, equal ones."""
        ((made,),) = self.generate_sides(prompts, [decoding], [edits], progress=progress)
        return made

    def generate_sides(
        self,
        prompts: Sequence[str],
        decodings: Sequence[Decoding],
        sides: Sequence[Sequence[Edit]],
        *,
        progress: Progress = silent,
    ) -> tuple[Rounds, ...]:
        """Of each model, for each decoding, one continuation a prompt.

        Samples with different seeds share batches: a few prompts alone would leave most of the
        machine idle.
        """
        return tuple(self._rounds(prompts, decodings, edits, progress) for edits in sides)

    def _rounds(
        self,
        prompts: Sequence[str],
        decodings: Sequence[Decoding],
        edits: Sequence[Edit],
        progress: Progress,
    ) -> Rounds:
        unique = list(dict.fromkeys(prompts))
        jobs = [job for one in decodings for job in self._jobs(unique, one, edits)]
        found: dict[tuple[str, Decoding], Continuation] = {}
        batches = self._batches(jobs)
        if self._store is not None and self._store.is_shared:
            batches.reverse()  # so that two processes meet in the middle
        with (
            progress("generate", len(jobs)) as advance,
            torch.inference_mode(),
            edited(self._model.model, *edits),
        ):
            for batch in batches:
                for job, made in zip(batch, self._stored_or_made(batch, advance), strict=True):
                    found[job.reading.prompt, job.decoding] = made
                advance(len(batch))
        return tuple(tuple(found[prompt, one] for prompt in prompts) for one in decodings)

    def _jobs(
        self, prompts: Sequence[str], decoding: Decoding, edits: Sequence[Edit]
    ) -> list[_Job]:
        """What is to be continued, with hashes of all that the continuations depend on."""
        settings = [
            self._model.fingerprint() if self._store is not None else "",
            content_of(edits),
            asdict(decoding),
            self.name,
            str(self._model.model.dtype),
            self._model.device.type,
            end_tokens(self._model, is_chat(self._model, decoding)),
        ]
        common = sha256_json(settings)
        jobs = []
        for one in readings(self._model, prompts, decoding):
            parts = f"{common}\0{one.prompt}\0{','.join(map(str, one.ids))}"
            key = hashlib.sha256(parts.encode(errors="surrogatepass")).hexdigest()
            jobs.append(_Job(one, decoding, key))
        return jobs

    def _batches(self, jobs: Sequence[_Job]) -> list[list[_Job]]:
        """Prompts of similar length, longest first, so that a lack of memory shows at once.

        What shares a batch differs in prompt and seed alone, and has room for as many new tokens.
        """
        alike: dict[tuple[Decoding, int], list[_Job]] = {}
        for job in sorted(jobs, key=lambda one: (-len(one.reading.ids), one.reading.prompt)):
            seed = None if job.decoding.seed is None else 0
            kind = replace(job.decoding, seed=seed), job.reading.max_new_tokens
            alike.setdefault(kind, []).append(job)
        batches: list[list[_Job]] = []
        most = _most_prompts(self._model)
        for (_, room), order in alike.items():
            while order:
                width = len(order[0].reading.ids) + room
                count = max(1, min(most, self._batch_tokens // width))
                batches.append(order[:count])
                order = order[count:]
        return batches

    def _stored_or_made(self, batch: Sequence[_Job], advance: Advance) -> list[Continuation]:
        make = partial(self._continued, batch, advance)
        if self._store is None:
            return make()
        return self._store.continuations_or([job.key for job in batch], make)

    def _continued(self, batch: Sequence[_Job], advance: Advance) -> list[Continuation]:
        model, tokenizer = self._model, self._model.tokenizer
        read, decoding = [job.reading for job in batch], batch[0].decoding
        inputs = model.batch_of([one.ids for one in read], side="left")
        width, room, ends = inputs["input_ids"].shape[1], read[0].max_new_tokens, read[0].ends
        clock = FirstToken()
        processors: list[Any] = [clock]
        seeds = [(job.reading.prompt, job.decoding.seed) for job in batch]
        sampled = [(prompt, seed) for prompt, seed in seeds if seed is not None]
        if sampled:  # then all are
            processors.append(UniformSampling(sampled, decoding.temperature, room))
        stop = None
        if decoding.stop is not None:
            stop = StopText(tokenizer, decoding.stop, width, len(batch))
        count = TokenCount(len(batch), ends, stop, advance)
        watching = [stop, count] if stop else [count]
        rows = new_tokens(model, inputs, room, ends, processors, watching).tolist()
        lengths = stop.lengths if stop else [None] * len(batch)
        made = [
            continuation_of(tokenizer, ids, ends, decoding, one.text, length)
            for ids, one, length in zip(rows, read, lengths, strict=True)
        ]
        self._count(clock, inputs["attention_mask"], made)
        return made

    def _count(self, clock: FirstToken, mask: torch.Tensor, made: Sequence[Continuation]) -> None:
        speed, prefill = self.speed, clock.seconds or 0.0
        speed.prefill_seconds += prefill
        speed.decode_seconds += time.perf_counter() - clock.started - prefill
        speed.prefill_tokens += int(mask.sum())
        speed.padded_tokens += mask.numel()
        speed.decode_tokens += sum(one.tokens for one in made)


def new_tokens(
    model: LanguageModel,
    inputs: dict[str, torch.Tensor],
    max_new_tokens: int,
    ends: Sequence[int],
    processors: Sequence[LogitsProcessor],
    watching: Sequence[StoppingCriteria],
) -> torch.Tensor:
    """Tokens that the model, as it is now, writes: [n, t] int64, padded on the right behind an end.

    The inputs, ids and mask, are padded on the left; t is `max_new_tokens` at most. Without a
    processor that chooses, decoding is greedy.
    """
    whole: torch.Tensor = model.model.generate(
        **inputs,
        generation_config=GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=model.tokenizer.pad_token_id,
            bos_token_id=model.tokenizer.bos_token_id,
            eos_token_id=list(ends) or None,
        ),
        logits_processor=LogitsProcessorList(processors),
        stopping_criteria=StoppingCriteriaList(watching),
    )
    return whole[:, inputs["input_ids"].shape[1] :]


def continuation_of(
    tokenizer: Any,
    ids: list[int],
    ends: Sequence[int],
    decoding: Decoding,
    read: str,
    stopped_after: int | None = None,
) -> Continuation:
    """What the new tokens of a row say: the answer, apart from what was thought before it.

    The ids hold the padding behind their end, too. `read` is what the model had read, and
    `stopped_after` the number of tokens until the stop text stood there, if it did.
    """
    kept = list(itertools.takewhile(lambda one: one not in ends, ids))
    is_finished = len(kept) < len(ids)
    if stopped_after is not None and stopped_after <= len(kept):
        kept, is_finished = kept[:stopped_after], True
    text = tokenizer.decode(kept, skip_special_tokens=True)
    if decoding.stop is not None:
        text = text.partition(decoding.stop)[0]
    # Marks of thinking are special tokens in some vocabularies: they are looked for with those.
    found = answer_and_thought(tokenizer, tokenizer.decode(kept), read)
    if found is None:
        return Continuation(text, len(kept), is_finished)
    answer, thought = found
    if decoding.stop is not None:
        answer = answer.partition(decoding.stop)[0]
    return Continuation(answer, len(kept), is_finished and bool(answer), thought)


def _most_prompts(model: LanguageModel) -> int:
    """How many prompts may be continued at once, for the scores of their next tokens."""
    if model.device.type == "cuda":
        return MOST_PROMPTS
    return min(MOST_PROMPTS, MOST_SCORES // int(model.model.config.get_text_config().vocab_size))


def _batch_tokens(model: LanguageModel) -> int:
    """How many tokens' keys and values the memory holds."""
    config = model.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_token = 2 * config.num_hidden_layers * heads * width * model.model.dtype.itemsize
    tokens = min(
        available_bytes(device, CACHE_BYTES, CACHE_SHARE) // (per_token * share)
        for device, share in model.block_shares.items()
    )
    return max(1, int(tokens))
