"""How well a model predicts text, and how far an edit moves what it predicts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from modelsurgery.apply.in_memory import edited
from modelsurgery.chat_template import Text
from modelsurgery.edit import Edit
from modelsurgery.hidden_states import batches
from modelsurgery.models import LanguageModel
from modelsurgery.progress import Progress, silent
from modelsurgery.token_ids import answer_ids

MAX_TOKENS = 256
BATCH_TOKENS = 2048


@dataclass(frozen=True)
class LanguageModelling:
    """Perplexity of base and edited model on the same text, and their divergence.

    Attributes:
        base_perplexity: exp of the mean loss per predicted token.
        edited_perplexity: the same after the edit.
        divergence: mean over all predicted positions of KL(base ‖ edited), nats. All positions,
            since an edit that spares the first token can still break the twentieth.
        tokens: predicted tokens.
    """

    base_perplexity: float
    edited_perplexity: float
    divergence: float
    tokens: int


def greedy_answers(
    model: LanguageModel,
    pairs: Sequence[tuple[str, str]],
    edits: Sequence[Edit] = (),
    *,
    progress: Progress = silent,
) -> list[bool]:
    """Whether greedy decoding of each prompt begins with its answer.

    One forward pass instead of generation: an answer is greedy when each of its tokens is the most
    probable one after the right tokens before it.

    Args:
        model: the base model.
        pairs: prompts with answers, which follow directly (begin an answer with its space).
        edits: applied in memory.
        progress: is told of pairs done.
    """
    answered = answer_ids(model.tokenizer, pairs, model.context_length)
    found = [False] * len(pairs)
    with (
        progress("answers", len(pairs)) as advance,
        torch.inference_mode(),
        edited(model.model, *edits),
    ):
        ids = [one.ids for one in answered]
        for rows, batch in batches(model, ids, max_tokens=None, batch_tokens=BATCH_TOKENS):
            starts = [answered[row].reply_start for row in rows]
            start = torch.tensor(starts, device=model.device)
            place = torch.arange(batch["input_ids"].shape[1], device=model.device)
            answers = batch["attention_mask"].bool() & (place >= start.unsqueeze(1))
            greedy = model.model(**batch, use_cache=False).logits[:, :-1].argmax(-1)
            hits = (greedy == batch["input_ids"][:, 1:]) | ~answers[:, 1:]
            for row, hit in zip(rows, hits.all(dim=1).tolist(), strict=True):
                found[row] = hit
            advance(len(rows), tokens=int(batch["attention_mask"].sum()))
    return found


def compare_language_modelling(
    model: LanguageModel,
    texts: Sequence[Text],
    edits: Sequence[Edit],
    *,
    max_tokens: int = MAX_TOKENS,
    progress: Progress = silent,
) -> LanguageModelling:
    """Perplexity before and after, and the divergence between the two, in one run over texts."""
    base_loss = edited_loss = divergence = 0.0
    tokens = 0
    with progress("perplexity", len(texts)) as advance, torch.inference_mode():
        for rows, batch in batches(model, texts, max_tokens=max_tokens, batch_tokens=BATCH_TOKENS):
            base, targets = _predictions(model, batch)
            with edited(model.model, *edits):
                after, _ = _predictions(model, batch)
            base_loss += _loss_sum(base, targets)
            edited_loss += _loss_sum(after, targets)
            divergence += float((base.exp() * (base - after)).sum(-1).double().sum())
            tokens += len(targets)
            advance(len(rows), tokens=2 * int(batch["attention_mask"].sum()))
    count = max(tokens, 1)
    # Rounding can leave a divergence of identical models a hair below zero.
    return LanguageModelling(
        math.exp(base_loss / count),
        math.exp(edited_loss / count),
        max(0.0, divergence / count),
        tokens,
    )


def _predictions(
    model: LanguageModel, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [p, vocabulary] f32 and targets [p] of all predicted positions."""
    logits = model.model(**batch, use_cache=False).logits[:, :-1]
    predicted = batch["attention_mask"][:, 1:].bool()
    return logits[predicted].float().log_softmax(-1), batch["input_ids"][:, 1:][predicted]


def _loss_sum(log_probabilities: torch.Tensor, targets: torch.Tensor) -> float:
    chosen = log_probabilities.gather(-1, targets.unsqueeze(-1))
    return -float(chosen.double().sum())
