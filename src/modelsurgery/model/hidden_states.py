"""Mean-pooled hidden states of texts: what the probe is trained on.

Feature of a text at layer l: the mean over its tokens of the output of block l. Layers count from
1 as in the paper; `layer = L`, the number of blocks, is taken after the final norm, as
transformers' `hidden_states[L]` is.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from modelsurgery.errors import CheckpointError, RecipeError, UnsupportedModelError
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.blocks import block_list
from modelsurgery.model.chat_template import Text
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.token_ids import Source

MAX_TOKENS = 100  # the paper's limit for a text
BATCH_TOKENS = 4096


@dataclass(frozen=True)
class HiddenStates:
    """Mean-pooled hidden states of n texts.

    Attributes:
        by_layer: [n, d] float32 on the CPU, by layer 1..L.

    Example:
        >>> extract_hidden_states(model, ["He is kind."], [4]).by_layer[4].shape
        torch.Size([1, 160])
    """

    by_layer: dict[int, torch.Tensor]


def extract_hidden_states(
    model: LanguageModel,
    texts: Sequence[Text],
    layers: Sequence[int] | None = None,
    *,
    max_tokens: int = MAX_TOKENS,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = silent,
) -> HiddenStates:
    """Compute mean-pooled hidden states of texts in one forward pass.

    x̄ˡ = Σ_t m_t x_tˡ / Σ_t m_t, where m is the attention mask, so padding does not count. Blocks
    above the highest requested layer are not computed. Plain texts get no end token, even if the
    tokenizer adds one.

    Args:
        model: the model.
        texts: n texts, each with at least one token.
        layers: layers to keep, 1..L; all by default.
        max_tokens: number of tokens to read from the beginning of each text.
        batch_tokens: number of tokens in a forward pass, including padding.
        progress: receives the number of processed texts.

    Returns:
        The features, in the order of `texts`.

    Raises:
        RecipeError: a layer is outside 1..L.
        CheckpointError: features are not finite.

    Example:
        >>> states = extract_hidden_states(model, ["He is kind.", "He is rude."])
        >>> sorted(states.by_layer)
        [1, 2, 3, 4]
    """
    wanted = tuple(range(1, model.layer_count + 1)) if layers is None else tuple(layers)
    for layer in wanted:
        if not 1 <= layer <= model.layer_count:
            raise RecipeError(f"layer {layer}; expected 1 to {model.layer_count} for this model")
    hidden_size = model.model.config.get_text_config().hidden_size
    features = {layer: torch.empty(len(texts), hidden_size) for layer in wanted}
    with progress("hidden states", len(texts)) as advance, torch.inference_mode():
        for rows, batch in batches(model, texts, max_tokens=max_tokens, batch_tokens=batch_tokens):
            states = _states(model, batch, wanted)
            for layer in wanted:
                features[layer][rows] = mean_over_tokens(states[layer], batch["attention_mask"])
            advance(len(rows), tokens=int(batch["attention_mask"].sum()))
    for layer, found in features.items():
        if not found.isfinite().all():
            raise CheckpointError(
                f"{model.checkpoint.directory}: the hidden states of layer {layer} hold NaN or "
                "infinity; the weights are damaged (fetch them again), or the dtype is too "
                "narrow (use --dtype float32)"
            )
    return HiddenStates(features)


def mean_over_tokens(states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens of each text, padding left out: [n, t, d] to [n, d] f32, on the CPU."""
    mask = attention_mask.unsqueeze(-1).to(states.device, torch.float32)
    return ((states.float() * mask).sum(1) / mask.sum(1)).cpu()


class _SeenEnoughError(Exception):
    """Ends a forward pass; caught where it was begun."""


def _states(
    model: LanguageModel, batch: dict[str, torch.Tensor], layers: Sequence[int]
) -> Mapping[int, torch.Tensor]:
    """Hidden states [n, t, d] by layer; no block behind the highest layer is computed.

    What block l + 1 reads is the state of layer l, as transformers counts.
    """
    highest = max(layers, default=model.layer_count)
    blocks = None
    if highest < model.layer_count:
        with suppress(UnsupportedModelError):  # then it is read to its end
            blocks = block_list(model)[1]
    if blocks is None:
        whole = model.decoder(**batch, output_hidden_states=True, use_cache=False).hidden_states
        return {layer: whole[layer] for layer in layers}
    found: dict[int, torch.Tensor] = {}

    def hook(layer: int, _: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        found[layer] = given[0] if given else named["hidden_states"]
        if layer == highest:
            raise _SeenEnoughError

    with ExitStack() as stack:
        for layer in set(layers):
            read = partial(hook, layer)
            stack.enter_context(blocks[layer].register_forward_pre_hook(read, with_kwargs=True))
        with suppress(_SeenEnoughError):
            model.decoder(**batch, use_cache=False)
    return found


def batches(
    model: LanguageModel, texts: Sequence[Source], *, max_tokens: int | None, batch_tokens: int
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """Batches of texts of similar length, longest first, with their row numbers.

    Of a text the first `max_tokens` are read, and never more than the model's context holds.
    Padding counts among `batch_tokens`.
    """
    context = model.context_length
    ids = model.token_ids(texts)
    longest = max(map(len, ids), default=0)
    if context < min(longest, max_tokens or longest):
        model.warn(
            f"texts of up to {longest} tokens are truncated to {context}, the model's context"
        )
    kept = [one[: min(context, max_tokens or context)] for one in ids]
    # Longest first, so that running out of memory happens at once and an ETA does not grow.
    order = sorted(range(len(kept)), key=lambda row: (-len(kept[row]), row))
    start = 0
    while start < len(order):
        width = max(1, len(kept[order[start]]))
        rows = order[start : start + max(1, batch_tokens // width)]
        yield rows, model.batch_of([kept[row] for row in rows])
        start += len(rows)
