"""A model as decoder and head, so that logits are made for a few positions at a time.

Logits are tokens × vocabulary values: 2,048 tokens and a vocabulary of 262,144 would take
gigabytes. So the decoder reads a whole batch and the head is applied in pieces. The model's own
code does both: soft-caps and scales are those of its family.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from modelsurgery.errors import UnsupportedModelError

Batch = dict[str, torch.Tensor]


class Halves:
    """A transformers model as decoder and head; whatever stands around them runs each time.

    `decoder` is the part that gives last hidden states, as `model` calls it.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        decoder = model.get_decoder()
        # What transformers 5 calls the decoder of Llama 4 has the head too.
        self.decoder = getattr(decoder, "model", decoder)
        self._output: Any = None  # class of what the decoder gives

    def last_states(self, batch: Batch) -> torch.Tensor:
        """What the decoder hands to the head, [n, t, d]; part of the graph where gradients are on.

        They are on the device of the batch, whichever device the last block is on.

        Raises:
            UnsupportedModelError: the head can't be told from the decoder.
        """
        found: list[torch.Tensor] = []
        forward = self.decoder.forward

        def first_position(*given: Any, **named: Any) -> Any:
            output = forward(*given, **named)
            found.append(output.last_hidden_state)
            self._output = type(output)
            return self._output(last_hidden_state=found[0][:, :1])

        if self.decoder is not self.model:
            with replaced_forward(self.decoder, first_position):
                self.model(**batch, use_cache=False)
        if len(found) != 1:
            raise UnsupportedModelError(
                f"{type(self.model).__name__}: cannot separate its head from its decoder; "
                "expected a causal language model of transformers that calls one decoder"
            )
        return found[0].to(batch["input_ids"].device)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """What the model makes of last hidden states [m, d]: logits [m, v]."""
        ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)

        def given(*_: Any, **__: Any) -> Any:
            return self._output(last_hidden_state=states.unsqueeze(0))

        with replaced_forward(self.decoder, given):
            found: torch.Tensor = self.model(input_ids=ids, use_cache=False).logits
        return found.squeeze(0)


@contextmanager
def replaced_forward(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a function take the place of a module's forward pass."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
