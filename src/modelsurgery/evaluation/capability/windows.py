"""Perplexity over non-overlapping windows of running text, as the paper measures it."""

from collections.abc import Sequence

import numpy as np

from modelsurgery.edit.edit import Edit
from modelsurgery.errors import EvaluationError
from modelsurgery.evaluation.capability.results import PerplexityResult
from modelsurgery.evaluation.language_modelling import TextSums, sum_over_texts
from modelsurgery.evaluation.predictions import Side
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.token_ids import TokenizedText, opening_ids

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
    exp(Σ loss / Σ predicted tokens). WikiText-2 comes here as it was tokenized by its authors
    (`<unk>`, ` @-@ `); numbers on its raw form differ, and the paper does not say which it took.

    Edits are applied together; none measures the base model alone. Windows are no longer than the
    model's context, and at most `limit`, from the beginning.

    Raises:
        EvaluationError: the text has fewer than two tokens.
    """
    width = min(window_tokens, model.context_length)
    opening = opening_ids(model.tokenizer)
    windows = _windows(model, text, width, opening)[:limit]
    if not windows:
        raise EvaluationError("the text has fewer than two tokens; expected running text")
    sides: list[Side] = [(), edits] if edits else [()]
    with progress("perplexity", len(windows)) as advance:
        sums = sum_over_texts(
            model, windows, sides, max_tokens=None, batch_tokens=BATCH_TOKENS, advance=advance
        )
    return _result(sums)


def _windows(
    model: LanguageModel, text: str, width: int, opening: Sequence[int]
) -> list[TokenizedText]:
    encoded = model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    own = width - len(opening)  # tokens of the text in a window
    parts = [encoded[start : start + own] for start in range(0, len(encoded), own)]
    windows = [TokenizedText((*opening, *part), len(opening)) for part in parts]
    return [window for window in windows if len(window.ids) > 1]


def _result(sums: TextSums) -> PerplexityResult:
    found, counts = sums.compared(), sums.tokens.numpy()
    rise_interval = divergence_interval = None
    if found.rise is not None:
        drawn = np.random.default_rng(0).integers(len(counts), size=(RESAMPLES, len(counts)))
        weights = counts[drawn].sum(1)
        rises = (sums.losses[1] - sums.losses[0]).numpy()[drawn].sum(1) / weights
        divergences = sums.divergences[1].numpy()[drawn].sum(1) / weights
        low, high = np.quantile(np.expm1(rises), [0.025, 0.975])
        near, far = np.quantile(divergences, [0.025, 0.975])
        rise_interval = float(low), float(high)
        divergence_interval = max(0.0, float(near)), max(0.0, float(far))
    return PerplexityResult(
        found.base_perplexity,
        found.edited_perplexity,
        found.perplexity_rise,
        rise_interval,
        found.divergence,
        divergence_interval,
        windows=len(counts),
        tokens=found.tokens,
    )
