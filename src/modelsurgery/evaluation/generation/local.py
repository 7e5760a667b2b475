"""Generation with the loaded model, through transformers."""

import hashlib
import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict
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
from modelsurgery.edit import Edit
from modelsurgery.evaluation.generation.chat import as_read, without_thinking
from modelsurgery.evaluation.generation.decoding import Continuation, Decoding, Speed
from modelsurgery.evaluation.generation.sampling import (
    FirstToken,
    StopText,
    TokenCount,
    UniformSampling,
)
from modelsurgery.files import sha256_json
from modelsurgery.models import LanguageModel
from modelsurgery.progress import Advance, Progress, silent

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
    its beginning.
    """

    def __init__(
        self, model: LanguageModel, *, store: "Store | None" = None, batch_tokens: int | None = None
    ) -> None:
        """Describe the model; nothing is generated yet.

        Args:
            model: the base model.
            store: where continuations are looked up and kept.
            batch_tokens: tokens of prompts and continuations in one batch, padding included;
                None takes what the memory holds.
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
        unique = list(dict.fromkeys(prompts))
        keys = dict(zip(unique, self._keys(unique, decoding, edits), strict=True))
        found: dict[str, Continuation] = {}
        batches = self._batches(unique, decoding)
        if self._store is not None and self._store.is_shared:
            batches.reverse()  # so that two processes meet in the middle
        with (
            progress("generate", len(unique)) as advance,
            torch.inference_mode(),
            edited(self._model.model, *edits),
        ):
            for batch in batches:
                some = [keys[one] for one in batch]
                found |= self._stored_or_made(batch, some, decoding, advance)
                advance(len(batch))
        return tuple(found[prompt] for prompt in prompts)

    def _keys(self, prompts: Sequence[str], decoding: Decoding, edits: Sequence[Edit]) -> list[str]:
        settings = [
            self._model.fingerprint() if self._store is not None else "",
            sorted(edit.content_sha256 for edit in edits),
            asdict(decoding),
            self.name,
            str(self._model.model.dtype),
            self._model.device.type,
        ]
        common = sha256_json(settings)
        return [
            hashlib.sha256(f"{common}\0{prompt}".encode(errors="surrogatepass")).hexdigest()
            for prompt in prompts
        ]

    def _batches(self, prompts: Sequence[str], decoding: Decoding) -> list[list[str]]:
        """Prompts of similar length, longest first, so that a lack of memory shows at once."""
        lengths = {
            prompt: len(ids)
            for prompt, ids in zip(
                prompts,
                self._model.tokenizer(
                    [as_read(self._model.tokenizer, one, decoding) for one in prompts]
                )["input_ids"],
                strict=True,
            )
        }
        order = sorted(prompts, key=lambda one: (-lengths[one], one))
        batches: list[list[str]] = []
        most = _most_prompts(self._model)
        while order:
            width = lengths[order[0]] + decoding.max_new_tokens
            count = max(1, min(most, self._batch_tokens // width))
            batches.append(order[:count])
            order = order[count:]
        return batches

    def _stored_or_made(
        self, batch: Sequence[str], keys: Sequence[str], decoding: Decoding, advance: Advance
    ) -> dict[str, Continuation]:
        if self._store is None:
            return dict(zip(batch, self._continued(batch, decoding, advance), strict=True))
        stored = self._store.continuations(keys)
        if len(stored) < len(set(keys)):
            made = self._continued(batch, decoding, advance)
            self._store.keep_continuations(dict(zip(keys, made, strict=True)))
            # Read back: of two processes that made it, both shall tell of the first.
            stored = self._store.continuations(keys)
        return {prompt: stored[key] for prompt, key in zip(batch, keys, strict=True)}

    def _continued(
        self, batch: Sequence[str], decoding: Decoding, advance: Advance
    ) -> list[Continuation]:
        model, tokenizer = self._model, self._model.tokenizer
        read = [as_read(tokenizer, prompt, decoding) for prompt in batch]
        room = context_length(model) - decoding.max_new_tokens
        inputs = model.tokenize(read, max_tokens=max(1, room), side="left")
        width = inputs["input_ids"].shape[1]
        clock = FirstToken()
        processors: list[Any] = [clock]
        if decoding.seed is not None:
            processors.append(
                UniformSampling(batch, decoding.seed, decoding.temperature, decoding.max_new_tokens)
            )
        stop = None
        if decoding.stop is not None:
            stop = StopText(tokenizer, decoding.stop, width, len(batch))
        ends = end_tokens(model)
        count = TokenCount(len(batch), ends, stop, advance)
        watching = [stop, count] if stop else [count]
        rows = new_tokens(model, inputs, decoding.max_new_tokens, processors, watching).tolist()
        made = [
            continuation_of(
                tokenizer, ids, ends, decoding, text, stop.lengths[row] if stop else None
            )
            for row, (ids, text) in enumerate(zip(rows, read, strict=True))
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
    processors: Sequence[LogitsProcessor],
    watching: Sequence[StoppingCriteria],
) -> torch.Tensor:
    """Tokens that the model writes, [n, t] int64, padded on the right behind an end.

    Args:
        model: the model, as it is now.
        inputs: token ids and mask, padded on the left.
        max_new_tokens: t at most.
        processors: see the logits of each step; without one that chooses, decoding is greedy.
        watching: see the tokens after each step, and may end rows.
    """
    whole: torch.Tensor = model.model.generate(
        **inputs,
        generation_config=GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=model.tokenizer.pad_token_id,
            bos_token_id=model.tokenizer.bos_token_id,
            eos_token_id=end_tokens(model) or None,
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

    Args:
        tokenizer: the model's.
        ids: new tokens, the padding behind their end too.
        ends: tokens that end a text.
        decoding: how they were made.
        read: what the model had read.
        stopped_after: tokens until the stop text stood there, if it did.
    """
    kept = list(itertools.takewhile(lambda one: one not in ends, ids))
    is_finished = len(kept) < len(ids)
    if stopped_after is not None and stopped_after <= len(kept):
        kept, is_finished = kept[:stopped_after], True
    text = tokenizer.decode(kept, skip_special_tokens=True)
    if decoding.stop is not None:
        text = text.partition(decoding.stop)[0]
    # Marks of thinking are special tokens in some vocabularies: they are looked for with those.
    answer, thought = without_thinking(tokenizer.decode(kept), read)
    if thought is not None:
        text = answer
        for special in tokenizer.all_special_tokens:
            text = text.replace(special, "")
        is_finished = is_finished and bool(text)
    return Continuation(text, len(kept), is_finished, thought)


def end_tokens(model: LanguageModel) -> list[int]:
    """The tokens that end a text; one that is also the padding ends it all the same."""
    ends = model.model.generation_config.eos_token_id
    if ends is None:
        ends = model.tokenizer.eos_token_id
    return [] if ends is None else list(ends) if isinstance(ends, list | tuple) else [ends]


def context_length(model: LanguageModel) -> int:
    """Tokens that the model reads at once; a million where its configuration does not say."""
    config = model.model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or 1 << 20)


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
    available = CACHE_BYTES
    if model.device.type == "cuda":
        available = int(CACHE_SHARE * torch.cuda.mem_get_info(model.device)[0])
    return max(1, int(available // per_token))
