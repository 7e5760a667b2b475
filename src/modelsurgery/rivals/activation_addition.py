"""Contrastive activation addition: one vector is added to the residual stream at run time."""

import torch

from modelsurgery.rivals.intervention import Hooked, Intervention
from modelsurgery.rivals.method import Materials, Method
from modelsurgery.rivals.places import block_paths
from modelsurgery.rivals.states import label_states

LAYER_SHARE = 13 / 32  # layer 13 of Llama 2 7B, the paper's choice


class ActivationAddition(Method):
    """The mean difference of hidden states at a middle layer, subtracted at every token.

    x ← x - s·(μ_shows - μ_opposite) behind one block. Strength 1 is the paper's multiplier 1.
    """

    name = "caa"
    title = "contrastive activation addition"
    source = (
        "Rimsky et al., Steering Llama 2 via Contrastive Activation Addition, ACL 2024, "
        "arXiv 2312.06681 (safe activation in the Model Surgery paper)"
    )
    delivery = "hooks"
    settings = "layer 13 of 32, in proportion; means over the tokens of a text"
    note = "The reference reads the answer letter's token alone; labeled texts have no such token."

    def fit(self, given: Materials) -> Intervention:
        """Take means of both labels at one layer."""
        layer = max(1, round(LAYER_SHARE * given.model.layer_count))
        vector = label_states(given, [layer]).difference(layer)

        def subtract(hidden: torch.Tensor, strength: float) -> torch.Tensor:
            return hidden - strength * vector.to(hidden)

        return Hooked({block_paths(given.model)[layer - 1]: subtract}, touched=len(vector))
