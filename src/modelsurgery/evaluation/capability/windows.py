"""Perplexity over non-overlapping windows of running text, as the paper measures it."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from modelsurgery.edit.edit import Edit
from modelsurgery.errors import EvaluationError
from modelsurgery.evaluation.capability.results import PerplexityResult
from modelsurgery.evaluation.predictions import predict
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.token_ids import opening_ids

WINDOW_TOKENS = 1024
BATCH_TOKENS = 4096
RESAMPLES = 999


def compare_perplexity(
    model: LanguageModel,
    text: str,
    edits: Sequence[Edit],
    *,
    window_tokens: int = WINDOW_TOKENS,
    limit: int | None = None,
    progress: Progress = silent,
) -> PerplexityResult:
    """Perplexity of base and edited model, and the divergence between them.

    The text is tokenized once, without tokens for its beginning or end, and cut. Each window begins
    with what the tokenizer puts before a text, if anything: families that were never trained
    without it predict nothing well. That is part of the window's length and is not predicted;
    where there is none, the window's first token is not. All else is predicted from what stands
    before it in the window. What is left of the text makes a shorter window. Perplexity =
    exp(Σ loss / Σ predicted tokens). WikiText-2
    comes here as it was tokenized by its authors (`<unk>`, ` @-@ `); numbers on its raw form
    differ, and the paper does not say which it took.

    Args:
        model: the base model.
        text: running text.
        edits: applied together; none measures the base model alone.
        window_tokens: tokens of a window; less if the model's context is shorter.
        limit: windows at most, from the beginning.
        progress: is told of windows done.

    Raises:
        EvaluationError: the text has fewer than two tokens.
    """
    width = min(window_tokens, model.context_length)
    opening = opening_ids(model.tokenizer)
    first = max(1, len(opening))  # place of the first token that is predicted
    windows = _windows(model, text, width, opening)[:limit]
    if not windows:
        raise EvaluationError("the text has fewer than two tokens; expected running text")
    # [windows, 3] f64: loss of base and edited and divergence, each summed over positions.
    sums: list[NDArray[np.float64]] = []
    per_batch = max(1, BATCH_TOKENS // width)
    with progress("perplexity", len(windows)) as advance, torch.inference_mode():
        start = 0
        while start < len(windows):
            some = [
                one for one in windows[start : start + per_batch] if len(one) == len(windows[start])
            ]
            sums.append(_sums(model, torch.stack(some).to(model.device), edits, first))
            start += len(some)
            sides = 2 if edits else 1
            advance(len(some), tokens=sides * sum(len(one) for one in some))
    counts = np.array([len(one) - first for one in windows], dtype=np.float64)
    return _result(np.concatenate(sums), counts, bool(edits))


def _windows(
    model: LanguageModel, text: str, width: int, opening: Sequence[int]
) -> list[torch.Tensor]:
    encoded = model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    own = width - len(opening)  # tokens of the text in a window
    parts = [encoded[start : start + own] for start in range(0, len(encoded), own)]
    whole = [torch.tensor([*opening, *part], dtype=torch.long) for part in parts]
    return [window for window in whole if len(window) > 1]


def _sums(
    model: LanguageModel, ids: torch.Tensor, edits: Sequence[Edit], first: int
) -> NDArray[np.float64]:
    """Loss of base and edited model and divergence [n, 3], summed from place `first` on."""
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    wanted = (torch.arange(ids.shape[1], device=ids.device) >= first).expand(ids.shape)
    found = predict(model.model, batch, [(), edits] if edits else [()], wanted=wanted)
    columns = [found.losses[0], found.losses[-1], found.divergences[-1]]
    sums = torch.zeros(len(ids), 3, dtype=torch.float64)
    return sums.index_add_(0, found.texts, torch.stack(columns, -1)).numpy()


def _result(
    sums: NDArray[np.float64], counts: NDArray[np.float64], is_edited: bool
) -> PerplexityResult:
    base, after, divergence = sums.sum(0) / counts.sum()
    common = {"windows": len(counts), "tokens": int(counts.sum())}
    if not is_edited:
        return PerplexityResult(float(np.exp(base)), None, None, None, None, None, **common)
    drawn = np.random.default_rng(0).integers(len(counts), size=(RESAMPLES, len(counts)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)[:, None]
    rises = np.quantile(np.exp(means[:, 1] - means[:, 0]) - 1, [0.025, 0.975])
    divergences = np.quantile(means[:, 2], [0.025, 0.975])
    return PerplexityResult(
        float(np.exp(base)),
        float(np.exp(after)),
        float(np.exp(after - base) - 1),
        (float(rises[0]), float(rises[1])),
        max(0.0, float(divergence)),
        (max(0.0, float(divergences[0])), max(0.0, float(divergences[1]))),
        **common,
    )
