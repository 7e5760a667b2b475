"""What happens inside a model while it reads texts: which chosen neurons are active, and how much.

A neuron is active at a token when its gate pre-activation is above zero. Tokens are the first
hundred of a text, as the probe reads them, without special ones: what the model does at the
beginning-of-text token is the same for every text, and nothing like the rest.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modelsurgery.checkpoint.layouts import Address
from modelsurgery.model.activations.neurons import Neurons
from modelsurgery.model.chat_template import Text
from modelsurgery.model.hidden_states import BATCH_TOKENS, MAX_TOKENS, batches, mean_over_tokens
from modelsurgery.model.language_model import LanguageModel

Neuron = tuple[Address, int]  # of which gate matrix, which row


@dataclass(frozen=True)
class Activity:
    """What was seen while n texts of t tokens altogether were read."""

    features: NDArray[np.float32]  # mean hidden states at a layer, [n, d]
    active: NDArray[np.int64]  # how many chosen neurons are, at each token but special ones, [t]
    mean_outputs: dict[Neuron, float]  # activation, as the down projection reads it

    @property
    def is_finite(self) -> bool:
        """Whether the model gave numbers throughout."""
        return bool(np.isfinite(self.features).all())


def watch(
    model: LanguageModel,
    texts: Sequence[Text],
    *,
    layer: int,
    found: Mapping[Address, Neurons],
    chosen: Mapping[Address, NDArray[np.int64]],
    measured: Sequence[Neuron] = (),
) -> Activity:
    """Read texts and see what the chosen neurons do.

    Args:
        model: the model, with or without an edit.
        texts: n texts, each with at least one token.
        layer: where the features are taken, 1..L.
        found: where the neurons are in the model.
        chosen: rows that are counted, by matrix; matrices without a projection are left out.
        measured: neurons whose mean activation is asked for; those that cannot be had are left
            out, and so are all of them where every token is a special one.
    """
    tally = _Tally()
    special = torch.tensor(sorted(model.tokenizer.all_special_ids), device=model.device)
    features = torch.empty(len(texts), model.model.config.get_text_config().hidden_size)
    with torch.inference_mode(), _watching(tally, found, chosen, measured):
        for rows, batch in batches(model, texts, max_tokens=MAX_TOKENS, batch_tokens=BATCH_TOKENS):
            is_special = torch.isin(batch["input_ids"], special)
            tally.begin(batch["attention_mask"].bool() & ~is_special)
            states = model.decoder(**batch, output_hidden_states=True, use_cache=False)
            features[rows] = mean_over_tokens(states.hidden_states[layer], batch["attention_mask"])
            tally.end()
    return Activity(features.numpy(), tally.counts(), tally.means())


class _Tally:
    """Counts and sums that hooks add to, a batch at a time."""

    def __init__(self) -> None:
        self._mask = torch.empty(0, dtype=torch.bool)
        self._active = torch.empty(0, dtype=torch.int64)
        self._counts: list[NDArray[np.int64]] = []
        self._sums: dict[Neuron, float] = {}
        self._tokens = 0

    def begin(self, mask: torch.Tensor) -> None:
        """A batch comes, of which the tokens in a mask [n, t] bool count."""
        self._mask = mask.flatten()
        self._active = torch.zeros(len(self._mask), dtype=torch.int64, device=mask.device)

    def add_active(self, active: torch.Tensor) -> None:
        """Counts of one matrix, of as many tokens as the batch has."""
        self._active += active.flatten().to(self._active.device)

    def add_outputs(self, neuron: Neuron, outputs: torch.Tensor) -> None:
        """A neuron's activations, of as many tokens as the batch has."""
        used = outputs.flatten()[self._mask.to(outputs.device)]
        self._sums[neuron] = self._sums.get(neuron, 0.0) + float(used.double().sum())

    def end(self) -> None:
        """The batch went through."""
        self._counts.append(self._active[self._mask].cpu().numpy())
        self._tokens += len(self._counts[-1])

    def counts(self) -> NDArray[np.int64]:
        return np.concatenate(self._counts) if self._counts else np.zeros(0, np.int64)

    def means(self) -> dict[Neuron, float]:
        if not self._tokens:
            return {}
        return {neuron: total / self._tokens for neuron, total in self._sums.items()}


@contextmanager
def _watching(
    tally: _Tally,
    found: Mapping[Address, Neurons],
    chosen: Mapping[Address, NDArray[np.int64]],
    measured: Sequence[Neuron],
) -> Iterator[None]:
    def count(outputs: torch.Tensor) -> Callable[..., None]:
        def hook(_: Any, __: Any, output: torch.Tensor) -> None:
            chosen_outputs = output.index_select(-1, outputs.to(output.device))
            tally.add_active((chosen_outputs > 0).sum(-1))

        return hook

    def measure(neuron: Neuron) -> Callable[..., None]:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            tally.add_outputs(neuron, inputs[0][..., neuron[1]])

        return hook

    with ExitStack() as stack:
        for address, rows in chosen.items():
            projection = found[address].projection
            if projection is not None and len(rows):
                hook = count(torch.from_numpy(found[address].outputs[rows]))
                stack.callback(projection.register_forward_hook(hook).remove)
        for neuron in measured:
            down = found[neuron[0]].down
            if down is not None:
                stack.callback(down.register_forward_pre_hook(measure(neuron)).remove)
        yield
