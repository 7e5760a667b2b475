"""Continuing prompts, batched and seeded."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig

from modelsurgery.models import LanguageModel
from modelsurgery.progress import Progress, silent

BATCH_PROMPTS = 128


@dataclass(frozen=True)
class Decoding:
    """How to continue a prompt.

    Attributes:
        max_new_tokens: at most so many tokens, fewer when the model ends.
        seed: seed of sampling at temperature 1 from the whole distribution; None is greedy.
    """

    max_new_tokens: int = 24
    seed: int | None = None


def generate(
    model: LanguageModel,
    prompts: Sequence[str],
    decoding: Decoding,
    *,
    batch_prompts: int = BATCH_PROMPTS,
    progress: Progress = silent,
) -> tuple[str, ...]:
    """Continue prompts; gives the new text only, in the order of the prompts.

    The global random state is left as it was. Base and edited models see the same batches and
    the same seed.
    """
    tokenizer = model.tokenizer
    config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=decoding.seed is not None,
        temperature=1.0 if decoding.seed is not None else None,
        top_k=0 if decoding.seed is not None else None,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=model.model.generation_config.eos_token_id or tokenizer.eos_token_id,
    )
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), row))
    continuations = [""] * len(prompts)
    devices = [model.device] if model.device.type == "cuda" else []
    with (
        progress("generate", len(prompts)) as advance,
        torch.inference_mode(),
        torch.random.fork_rng(devices),
    ):
        torch.manual_seed(decoding.seed or 0)
        for start in range(0, len(order), batch_prompts):
            rows = order[start : start + batch_prompts]
            batch = model.tokenize([prompts[row] for row in rows], side="left")
            ids = model.model.generate(**batch, generation_config=config)
            new = ids[:, batch["input_ids"].shape[1] :]
            for row, text in zip(
                rows, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True
            ):
                continuations[row] = text
            advance(len(rows))
    return tuple(continuations)
