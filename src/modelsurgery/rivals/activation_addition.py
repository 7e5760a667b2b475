"""One vector is added to activations at run time: a difference of means, or a probe's weights."""

import torch

from modelsurgery.rivals.edits import probe_of
from modelsurgery.rivals.intervention import Hooked, Intervention
from modelsurgery.rivals.method import Materials, Method
from modelsurgery.rivals.places import block_paths, final_norm
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
        return subtracted(vector, block_paths(given.model)[layer - 1])


class FeatureSubtraction(Method):
    """The probe of the last layer, subtracted where it was trained: x ← x - s·W1.

    That is behind the final norm.
    """

    name = "feature-subtraction"
    title = "hidden-feature subtraction"
    source = "a baseline of Wang et al., Model Surgery, NAACL 2025, arXiv 2407.08770"
    delivery = "hooks"
    settings = "W1 of the last layer, Adam"

    def fit(self, given: Materials) -> Intervention:
        """Train the paper's probe."""
        vector = given.sign * torch.from_numpy(probe_of(given, given.model.layer_count).weight[1])
        return subtracted(vector, final_norm(given.model))


def subtracted(vector: torch.Tensor, path: str) -> Hooked:
    """A vector [d], taken off what the module at a path puts out."""

    def change(hidden: torch.Tensor, strength: float) -> torch.Tensor:
        return hidden - strength * vector.to(hidden)

    return Hooked({path: change}, touched=len(vector))
