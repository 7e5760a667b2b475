"""How well a model predicts text, and how far an edit moves what it predicts.

Perplexity, divergence, the share of right next tokens and greedy answers are all reductions of one
thing: what some sides (the base model, edits of it) predict at each token, summed text by text.
Screening and windows of running text reduce the same sums.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from modelsurgery.edit.edit import Edit
from modelsurgery.errors import EvaluationError
from modelsurgery.evaluation.predictions import Side, predict
from modelsurgery.files.progress import Advance, Progress, silent
from modelsurgery.model.chat_template import Text
from modelsurgery.model.hidden_states import batches
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.token_ids import TokenizedText, answer_ids, predicted_tokens

MAX_TOKENS = 256
BATCH_TOKENS = 2048


@dataclass(frozen=True)
class LanguageModelling:
    """The base model's loss on text, and what an edit does to it; texts are the unit of errors."""

    base_loss: float  # of the base model, mean per predicted token, nats
    tokens: int  # predicted tokens
    # Rise of the mean loss, nats; None when there is no edit, like all that follow.
    rise: float | None = None
    rise_error: float | None = None  # its standard error
    # Mean over all predicted positions of KL(base ‖ edited), nats. All positions, since an edit
    # that spares the first token can still break the twentieth.
    divergence: float | None = None
    divergence_error: float | None = None  # its standard error
    hits_lost: float | None = None  # share of next tokens that are no longer the most probable ones
    hits_lost_error: float | None = None  # its standard error

    @property
    def base_perplexity(self) -> float:
        """Perplexity of the base model: exp of the mean loss per predicted token."""
        return math.exp(self.base_loss)

    @property
    def edited_perplexity(self) -> float | None:
        """The same after the edit; None when there is no edit."""
        return None if self.rise is None else math.exp(self.base_loss + self.rise)

    @property
    def perplexity_rise(self) -> float | None:
        """Relative rise of the perplexity, 0.05 for +5 %; None when there is no edit."""
        return None if self.rise is None else math.expm1(self.rise)


@dataclass(frozen=True)
class TextSums:
    """What s sides predict of n texts, summed over the predicted tokens of each; f64 on the CPU."""

    losses: torch.Tensor  # −log P(token), nats, [s, n]
    divergences: torch.Tensor  # KL(first side ‖ side), nats, [s, n]; exactly 0 for the first
    hits: torch.Tensor  # tokens that are the most probable ones, [s, n]
    tokens: torch.Tensor  # predicted tokens, [n]

    @property
    def mean_losses(self) -> torch.Tensor:
        """Mean loss per token of each side, [s]; 0 where nothing is predicted."""
        return self.losses.sum(1) / max(float(self.tokens.sum()), 1.0)

    @property
    def right(self) -> torch.Tensor:
        """Whether all predicted tokens of a text are the most probable ones, [s, n] bool."""
        return self.hits == self.tokens

    def compared(self, side: int = 1) -> LanguageModelling:
        """The first side with another one; alone where there is no such side."""
        base, tokens = float(self.mean_losses[0]), int(self.tokens.sum())
        if side >= len(self.losses):
            return LanguageModelling(base, tokens)
        rise = per_token(self.losses[side] - self.losses[0], self.tokens)
        apart, error = per_token(self.divergences[side], self.tokens)
        lost = per_token(self.hits[0] - self.hits[side], self.tokens)
        # Rounding can leave a divergence of identical models a hair below zero.
        apart = apart if math.isnan(apart) else max(0.0, apart)
        return LanguageModelling(base, tokens, *rise, apart, error, *lost)


def sum_over_texts(
    model: LanguageModel,
    texts: Sequence[TokenizedText],
    sides: Sequence[Side],
    *,
    max_tokens: int | None = MAX_TOKENS,
    batch_tokens: int = BATCH_TOKENS,
    together: bool = False,
    known: dict[int, torch.Tensor] | None = None,
    advance: Advance | None = None,
) -> TextSums:
    """Let all sides read texts, and add up what they predict.

    Args:
        model: the base model.
        texts: their tokens count from the beginning of the reply on, but never the first, which
            nothing predicts.
        sides: at least one; divergences are those from the first.
        max_tokens: tokens of a text that are read, from its beginning; None reads what the model's
            context holds.
        batch_tokens: tokens in one batch, padding included.
        together: let all sides share a forward pass, not one each.
        known: last hidden states of the first side by text, from an earlier reading of the same
            texts: it does not read them again. What is missing is added.
        advance: is told of texts and tokens read.
    """
    sums = torch.zeros(3, len(sides), len(texts), dtype=torch.float64)
    tokens = torch.zeros(len(texts), dtype=torch.float64)
    ids = [text.ids for text in texts]
    for rows, batch in batches(model, ids, max_tokens=max_tokens, batch_tokens=batch_tokens):
        wanted = predicted_tokens([texts[row] for row in rows], batch)
        first = None
        if known is not None and all(row in known for row in rows):
            first = torch.cat([known[row] for row in rows])
        with torch.inference_mode():
            found = predict(
                model.model, batch, sides, wanted=wanted, first=first, together=together
            )
        if known is not None and first is None:
            counts = wanted[:, 1:].sum(1).tolist()
            known.update(zip(rows, found.states[0].split(counts), strict=True))
        text = torch.tensor(rows)[found.texts]
        tokens.index_add_(0, text, torch.ones(len(text), dtype=torch.float64))
        sums.index_add_(
            2, text, torch.stack([found.losses, found.divergences, found.hits.double()])
        )
        if advance is not None:
            advance(len(rows), tokens=len(sides) * int(batch["attention_mask"].sum()))
    losses, divergences, hits = sums
    return TextSums(losses, divergences, hits, tokens)


def compare_language_modelling(
    model: LanguageModel,
    texts: Sequence[Text],
    edits: Sequence[Edit],
    *,
    max_tokens: int = MAX_TOKENS,
    progress: Progress = silent,
) -> LanguageModelling:
    """Perplexity of neutral texts before and after, and the divergence, in one run over them.

    The edits are applied together; none measures the base model alone. `max_tokens` of a text are
    read, from its beginning.

    Raises:
        EvaluationError: the texts have no token to predict.
    """
    sides: list[Side] = [(), edits] if edits else [()]
    read = plain_ids(model, texts)
    with progress("perplexity", len(texts)) as advance:
        sums = sum_over_texts(model, read, sides, max_tokens=max_tokens, advance=advance)
    check_predicted(int(sums.tokens.sum()), "neutral")
    return sums.compared()


def greedy_answers(
    model: LanguageModel,
    pairs: Sequence[tuple[str, str]],
    edits: Sequence[Edit] = (),
    *,
    progress: Progress = silent,
) -> list[bool]:
    """Whether greedy decoding of each prompt begins with its answer, which follows directly.

    So an answer begins with its space. One forward pass instead of generation: an answer is greedy
    when each of its tokens is the most probable one after the right tokens before it.
    """
    asked = answer_ids(model.tokenizer, pairs, model.context_length)
    with progress("answers", len(pairs)) as advance:
        sums = sum_over_texts(model, asked, [edits], max_tokens=None, advance=advance)
    right: list[bool] = sums.right[0].tolist()
    return right


def plain_ids(model: LanguageModel, texts: Sequence[Text]) -> list[TokenizedText]:
    """Texts of which all tokens count."""
    return [TokenizedText(tuple(ids), 1) for ids in model.token_ids(texts)]


def per_token(sums: torch.Tensor, tokens: torch.Tensor) -> tuple[float, float]:
    """Mean per token of n texts, and its standard error with texts as the unit.

    The error is a ratio estimator's. `sums` are over the tokens of each text, [n], as are `tokens`.
    """
    total = max(float(tokens.sum()), 1.0)
    mean = float(sums.sum()) / total
    return mean, float(((sums - mean * tokens) ** 2).sum().sqrt()) / total


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
