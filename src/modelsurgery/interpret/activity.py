"""What happens inside a model while it reads texts: which chosen neurons are active, and how much.

A neuron is active at a token when its gate pre-activation is above zero. Tokens are the first
hundred of a text, as the probe reads them, without special ones: what the model does at the
beginning-of-text token is the same for every text, and nothing like the rest.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
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
    active = np.concatenate([*tally.counts, np.zeros(0, np.int64)])
    means = {neuron: total / len(active) for neuron, total in tally.sums.items() if len(active)}
    return Activity(features.numpy(), active, means)


class _Tally:
    """Counts and sums that hooks add to, a batch at a time."""

    def __init__(self) -> None:
        self.counts: list[NDArray[np.int64]] = []  # of active neurons, by batch and token
        self.sums: defaultdict[Neuron, float] = defaultdict(float)  # of activations

    def begin(self, mask: torch.Tensor) -> None:
        """A batch comes, of which the tokens in a mask [n, t] bool count."""
        self._mask = mask.flatten()
        self._active = torch.zeros(len(self._mask), dtype=torch.int64, device=mask.device)

    def end(self) -> None:
        """The batch went through."""
        self.counts.append(self._active[self._mask].cpu().numpy())

    def count(self, outputs: torch.Tensor, _: Any, __: Any, output: torch.Tensor) -> None:
        """Forward hook of a projection, of which some outputs count."""
        chosen = output.index_select(-1, outputs.to(output.device))
        self._active += (chosen > 0).sum(-1).flatten().to(self._active.device)

    def measure(self, neuron: Neuron, _: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        """Forward hook before a down projection, of which one input counts."""
        values = inputs[0][..., neuron[1]].flatten()
        self.sums[neuron] += float(values[self._mask.to(values.device)].double().sum())


@contextmanager
def _watching(
    tally: _Tally,
    found: Mapping[Address, Neurons],
    chosen: Mapping[Address, NDArray[np.int64]],
    measured: Sequence[Neuron],
) -> Iterator[None]:
    with ExitStack() as stack:
        for address, rows in chosen.items():
            projection = found[address].projection
            if projection is not None and len(rows):
                hook = partial(tally.count, torch.from_numpy(found[address].outputs[rows]))
                stack.callback(projection.register_forward_hook(hook).remove)
        for neuron in measured:
            down = found[neuron[0]].down
            if down is not None:
                hook = partial(tally.measure, neuron)
                stack.callback(down.register_forward_pre_hook(hook).remove)
        yield
