"""What blocks and other modules write while a model reads texts: the very places hooks change.

`model.hidden_states` gives the last layer behind the final norm, as transformers does; here it is
the last block's own output.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from modelsurgery.model.activations.texts import TextBatch, TokenizedText, text_batches
from modelsurgery.model.hidden_states import BATCH_TOKENS, mean_over_tokens
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.rivals.intervention import hooks_on
from modelsurgery.rivals.method import Materials
from modelsurgery.rivals.places import block_paths

# Is told of a batch, the path of a module, and what it read and wrote, [n, t, …] each.
Look = Callable[[TextBatch, str, torch.Tensor, torch.Tensor], None]


@dataclass(frozen=True)
class Outputs:
    """Outputs of blocks on a batch of n texts, padded to t tokens."""

    batch: TextBatch
    by_layer: dict[int, torch.Tensor]  # [n, t, d], by layer 1..L

    def tokens(self, layer: int) -> torch.Tensor:
        """What all tokens have at a layer, padding left out, [tokens, d] f32."""
        found = self.by_layer[layer]
        return found[self.batch.inputs["attention_mask"].bool().to(found.device)].float()

    def means(self, layer: int) -> torch.Tensor:
        """Mean over the tokens of each text that count, [n, d] f32 on the CPU."""
        return mean_over_tokens(self.by_layer[layer], self.batch.predicted)


class _SeenEnoughError(Exception):
    """Ends a forward pass; caught where it was begun."""


def block_outputs(
    model: LanguageModel, texts: Sequence[TokenizedText], layers: Sequence[int]
) -> Iterator[Outputs]:
    """Read texts and give what blocks put out; no block behind the last one wanted is computed.

    The model is read with whatever changes it at the moment. Layers are of 1..L, ascending; texts
    without a token that counts are left out.
    """
    paths = block_paths(model)
    found: dict[int, torch.Tensor] = {}

    def keep(layer: int, _: Any, __: Any, output: Any) -> None:
        found[layer] = output[0] if isinstance(output, tuple) else output
        if layer == layers[-1]:
            raise _SeenEnoughError

    hooks = {paths[layer - 1]: partial(keep, layer) for layer in layers}
    for batch in text_batches(model, texts, BATCH_TOKENS):
        with hooks_on(model, hooks), torch.inference_mode(), suppress(_SeenEnoughError):
            model.decoder(**batch.inputs, use_cache=False)
        yield Outputs(batch, dict(found))


def watch_modules(
    model: LanguageModel, texts: Sequence[TokenizedText], paths: Sequence[str], look: Look
) -> None:
    """Read texts, and look at modules with one input and one output as they run."""

    def hook(
        batch: TextBatch, path: str, _: Any, given: tuple[torch.Tensor], output: torch.Tensor
    ) -> None:
        look(batch, path, given[0], output)

    for batch in text_batches(model, texts, BATCH_TOKENS):
        hooks = {path: partial(hook, batch, path) for path in paths}
        with hooks_on(model, hooks), torch.inference_mode():
            model.decoder(**batch.inputs, use_cache=False)


def pooled_outputs(
    model: LanguageModel, texts: Sequence[TokenizedText], layers: Sequence[int]
) -> dict[int, torch.Tensor]:
    """Mean over the tokens of each text that count, [n, d] f32 on the CPU by layer.

    The first token never counts: many models keep a state there that is hundreds of times as long
    as any other. In a mean over all tokens it would say little but how long a text is.
    """
    width = model.model.config.get_text_config().hidden_size
    pooled = {layer: torch.full((len(texts), width), torch.nan) for layer in layers}
    for some in block_outputs(model, texts, layers):
        for layer in layers:
            pooled[layer][list(some.batch.rows)] = some.means(layer)
    return {layer: found[~found[:, 0].isnan()] for layer, found in pooled.items()}


@dataclass(frozen=True)
class LabelStates:
    """Pooled outputs of both labels."""

    shows: dict[int, torch.Tensor]  # [n, d] f32, by layer
    opposite: dict[int, torch.Tensor]  # [m, d] f32, by layer

    def difference(self, layer: int) -> torch.Tensor:
        """μ_shows - μ_opposite, [d]."""
        return self.shows[layer].mean(0) - self.opposite[layer].mean(0)


def label_states(given: Materials, layers: Sequence[int]) -> LabelStates:
    """Read the training texts of both labels."""
    shows, opposite = (
        pooled_outputs(given.model, given.read(texts), layers)
        for texts in (given.shows, given.opposite)
    )
    return LabelStates(shows, opposite)
