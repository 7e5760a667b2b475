"""Generation with the loaded model, through transformers."""

import hashlib
import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

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
from modelsurgery.evaluation.decoding import Continuation, Decoding, Speed, content_of
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


class TransformersGenerator:
    """Continues prompts with a loaded model; edits are applied in memory.

    Prompts of similar length share a batch, padded on the left. The batches depend on the prompts
    alone, so an interrupted run computes what a whole one does. Of the model's own generation
    settings its end tokens hold, and nothing else: no top-k, no repetition penalty, so that base
    and edited model are seen as they are. A prompt that is too long for the model's context loses
    its beginning (`reading`).
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
        unique = readings(self._model, list(dict.fromkeys(prompts)), decoding)
        keys = self._keys(unique, decoding, edits)
        found: dict[str, Continuation] = {}
        batches = self._batches(unique)
        if self._store is not None and self._store.is_shared:
            batches.reverse()  # so that two processes meet in the middle
        with (
            progress("generate", len(unique)) as advance,
            torch.inference_mode(),
            edited(self._model.model, *edits),
        ):
            for batch in batches:
                some = [keys[one.prompt] for one in batch]
                found |= self._stored_or_made(batch, some, decoding, advance)
                advance(len(batch))
        return tuple(found[prompt] for prompt in prompts)

    def _keys(
        self, prompts: Sequence[Reading], decoding: Decoding, edits: Sequence[Edit]
    ) -> dict[str, str]:
        """Keys of continuations, by prompt: hashes of all that they depend on."""
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
        keys = {}
        for one in prompts:
            parts = f"{common}\0{one.prompt}\0{','.join(map(str, one.ids))}"
            keys[one.prompt] = hashlib.sha256(parts.encode(errors="surrogatepass")).hexdigest()
        return keys

    def _batches(self, prompts: Sequence[Reading]) -> list[list[Reading]]:
        """Prompts of similar length, longest first, so that a lack of memory shows at once.

        Prompts with room for different numbers of new tokens do not share a batch.
        """
        order = sorted(prompts, key=lambda one: (-len(one.ids), one.prompt))
        batches: list[list[Reading]] = []
        most = _most_prompts(self._model)
        while order:
            room = order[0].max_new_tokens
            count = max(1, min(most, self._batch_tokens // (len(order[0].ids) + room)))
            batches.append([one for one in order[:count] if one.max_new_tokens == room])
            order = order[len(batches[-1]) :]
        return batches

    def _stored_or_made(
        self, batch: Sequence[Reading], keys: Sequence[str], decoding: Decoding, advance: Advance
    ) -> dict[str, Continuation]:
        make = partial(self._continued, batch, decoding, advance)
        found = make() if self._store is None else self._store.continuations_or(keys, make)
        return {one.prompt: told for one, told in zip(batch, found, strict=True)}

    def _continued(
        self, batch: Sequence[Reading], decoding: Decoding, advance: Advance
    ) -> list[Continuation]:
        model, tokenizer = self._model, self._model.tokenizer
        inputs = model.batch_of([one.ids for one in batch], side="left")
        width, room = inputs["input_ids"].shape[1], batch[0].max_new_tokens
        clock = FirstToken()
        processors: list[Any] = [clock]
        if decoding.seed is not None:
            prompts = [one.prompt for one in batch]
            processors.append(UniformSampling(prompts, decoding.seed, decoding.temperature, room))
        stop = None
        if decoding.stop is not None:
            stop = StopText(tokenizer, decoding.stop, width, len(batch))
        ends = batch[0].ends
        count = TokenCount(len(batch), ends, stop, advance)
        watching = [stop, count] if stop else [count]
        rows = new_tokens(model, inputs, room, ends, processors, watching).tolist()
        lengths = stop.lengths if stop else [None] * len(batch)
        made = [
            continuation_of(tokenizer, ids, ends, decoding, one.text, length)
            for ids, one, length in zip(rows, batch, lengths, strict=True)
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
