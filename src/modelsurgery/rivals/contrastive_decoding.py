"""Contrastive decoding: away from what a model says that was trained on what should go."""

import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch

from modelsurgery.model.halves import Halves, replaced_forward
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.rivals.adapters import Factors, LoraSettings, Pair, train_adapter
from modelsurgery.rivals.intervention import Intervention, hooks_on
from modelsurgery.rivals.method import Materials, Method

AMATEUR = LoraSettings()


class ContrastiveDecoding(Method):
    """logits ← logits + s·(logits - amateur's logits).

    The amateur is the model, fine-tuned on texts of what should go.
    """

    name = "contrastive-decoding"
    title = "contrastive decoding"
    source = (
        "Liu et al., DExperts, ACL 2021, arXiv 2105.03023; Li et al., Contrastive Decoding, ACL "
        "2023, arXiv 2210.15097; a baseline of the Model Surgery paper"
    )
    delivery = "second model"
    settings = f"amateur: {AMATEUR}"
    note = (
        "The base model is the expert, as in DExperts with the anti-expert alone; no token is "
        "ruled out. Where a family caps its logits, the contrast is taken before the cap."
    )

    def fit(self, given: Materials) -> Intervention:
        """Train the amateur."""
        return Contrasted(train_adapter(given, given.shows, AMATEUR), first=0.5)


@dataclass(frozen=True)
class Contrasted(Intervention):
    """Last hidden states h ← h + s·(h - h'), where h' are the amateur's.

    The head is linear, so that the logits are contrasted in just the same way.
    """

    amateur: Factors  # what it has more than the base model

    @property
    def touched(self) -> int:
        """Weights of the amateur's factors."""
        return sum(left.numel() + right.numel() for left, right in self.amateur.by_path.values())

    def applied(self, model: LanguageModel, strength: float) -> AbstractContextManager[object]:
        """Let the decoder read everything twice; the amateur has a cache of its own."""
        decoder = Halves(model.model).decoder
        forward = decoder.forward
        adding = {path: partial(_added, factors) for path, factors in self.amateur.by_path.items()}
        caches: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

        def both(*given: Any, **named: Any) -> Any:
            cache = named.get("past_key_values")
            if cache is not None and cache not in caches:
                caches[cache] = copy.deepcopy(cache)  # empty, as generation hands it over
            of_amateur = named if cache is None else {**named, "past_key_values": caches[cache]}
            base = forward(*given, **named)
            with hooks_on(model, adding):
                other = forward(*given, **of_amateur)
            if cache is None and getattr(base, "past_key_values", None) is not None:
                caches[base.past_key_values] = other.past_key_values
            apart = base.last_hidden_state - other.last_hidden_state
            base.last_hidden_state = base.last_hidden_state + strength * apart
            return base

        return replaced_forward(decoder, both)


def _added(factors: Pair, _: Any, given: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    """The hook of a linear layer that adds what adapters add: y ← y + (x Aᵀ) Bᵀ."""
    up, down = (one.to(output).T for one in factors)
    return output + given[0] @ down @ up
