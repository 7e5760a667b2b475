"""How well a model predicts text, and how far an edit moves what it predicts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from modelsurgery.apply.in_memory import edited
from modelsurgery.edit.edit import Edit
from modelsurgery.errors import EvaluationError
from modelsurgery.evaluation.predictions import Side, predict
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.chat_template import Text
from modelsurgery.model.halves import Batch
from modelsurgery.model.hidden_states import batches
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.token_ids import answer_ids

MAX_TOKENS = 256
BATCH_TOKENS = 2048


@dataclass(frozen=True)
class LanguageModelling:
    """Perplexity of base and edited model on the same text, and their divergence.

    Attributes:
        base_perplexity: exp of the mean loss per predicted token.
        edited_perplexity: the same after the edit; None when there is no edit.
        divergence: mean over all predicted positions of KL(base ‖ edited), nats; None when there is
            no edit. All positions, since an edit that spares the first token can still break the
            twentieth.
        tokens: predicted tokens.
    """

    base_perplexity: float
    edited_perplexity: float | None
    divergence: float | None
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
    asked = answer_ids(model.tokenizer, pairs, model.context_length)
    found = [False] * len(pairs)
    with (
        progress("answers", len(pairs)) as advance,
        torch.inference_mode(),
        edited(model.model, *edits),
    ):
        ids = [one.ids for one in asked]
        for rows, batch in batches(model, ids, max_tokens=None, batch_tokens=BATCH_TOKENS):
            starts = [asked[row].reply_start for row in rows]
            (right,) = answered(model.model, batch, starts, [()]).tolist()
            for row, hit in zip(rows, right, strict=True):
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
    """Perplexity before and after, and the divergence between the two, in one run over texts.

    Args:
        model: the base model.
        texts: neutral texts.
        edits: applied together; none measures the base model alone.
        max_tokens: tokens of a text that are read, from its beginning.
        progress: is told of texts done.

    Raises:
        EvaluationError: the texts have no token to predict.
    """
    # [sides, 2]: loss and divergence, summed over predicted tokens.
    sides = [(), edits] if edits else [()]
    sums, tokens = torch.zeros(len(sides), 2, dtype=torch.float64), 0
    with progress("perplexity", len(texts)) as advance, torch.inference_mode():
        for rows, batch in batches(model, texts, max_tokens=max_tokens, batch_tokens=BATCH_TOKENS):
            found = predict(model.model, batch, sides)
            sums += torch.stack([found.losses.sum(-1), found.divergences.sum(-1)], -1)
            tokens += found.losses.shape[1]
            advance(len(rows), tokens=len(sides) * int(batch["attention_mask"].sum()))
    check_predicted(tokens, "neutral")
    base, *changed = (sums / tokens).tolist()
    if not changed:
        return LanguageModelling(math.exp(base[0]), None, None, tokens)
    ((loss, divergence),) = changed
    # Rounding can leave a divergence of identical models a hair below zero.
    return LanguageModelling(math.exp(base[0]), math.exp(loss), max(0.0, divergence), tokens)


def answered(
    model: Any,
    batch: Batch,
    starts: Sequence[int],
    sides: Sequence[Side],
    *,
    together: bool = False,
) -> torch.Tensor:
    """Whether greedy decoding gives all tokens of a row from `starts` on, [sides, n] bool."""
    start = torch.tensor(starts, device=batch["input_ids"].device)
    place = torch.arange(batch["input_ids"].shape[1], device=start.device)
    answers = batch["attention_mask"].bool() & (place >= start.unsqueeze(1))
    found = predict(model, batch, sides, wanted=answers, together=together)
    wrong = torch.zeros(len(sides), len(starts), dtype=torch.int64)
    return wrong.index_add_(1, found.texts, (~found.hits).long()) == 0


def check_predicted(tokens: int, kind: str) -> None:
    """Refuse a mean over no token: it would look like a perfect model that nothing changes.

    Raises:
        EvaluationError: `tokens` is 0.
    """
    if not tokens:
        raise EvaluationError(
            f"the {kind} texts have no token to predict, because each of them is one token; "
            "expected sentences"
        )
