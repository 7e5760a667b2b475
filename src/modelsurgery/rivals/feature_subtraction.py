"""Hidden-feature subtraction: the probe of the last layer is taken off the last hidden states."""

import torch

from modelsurgery.rivals.edits import probe_of
from modelsurgery.rivals.intervention import Hooked, Intervention
from modelsurgery.rivals.method import Materials, Method
from modelsurgery.rivals.places import final_norm


class FeatureSubtraction(Method):
    """x ← x - s·W1 where the probe was trained: behind the final norm."""

    name = "feature-subtraction"
    title = "hidden-feature subtraction"
    source = "a baseline of Wang et al., Model Surgery, NAACL 2025, arXiv 2407.08770"
    delivery = "hooks"
    settings = "W1 of the last layer, Adam"

    def fit(self, given: Materials) -> Intervention:
        """Train the paper's probe."""
        vector = given.sign * torch.from_numpy(probe_of(given, given.model.layer_count).weight[1])

        def subtract(hidden: torch.Tensor, strength: float) -> torch.Tensor:
            return hidden - strength * vector.to(hidden)

        return Hooked({final_norm(given.model): subtract}, touched=len(vector))
