"""Directional ablation: a direction is taken out of all that is written into the residual stream.

Also its form that keeps norms. Both choose the layer that the direction is measured at.
"""

from collections.abc import Callable, Mapping, Sequence

import torch

from modelsurgery.model.language_model import LanguageModel
from modelsurgery.rivals.choosing import best_layer
from modelsurgery.rivals.intervention import Intervention, Reweighted, parameters_in
from modelsurgery.rivals.method import Materials, Method
from modelsurgery.rivals.places import attention_out, block_paths, mlp_out, writers
from modelsurgery.rivals.states import LabelStates, label_states

LAST_SHARE = 0.8  # of the layers, that a direction may come from


def unit(vector: torch.Tensor) -> torch.Tensor:
    """The vector at length 1; zero stays zero."""
    found: torch.Tensor = torch.nn.functional.normalize(vector, dim=-1)
    return found


def ablated(matrix: torch.Tensor, direction: torch.Tensor, weight: float) -> torch.Tensor:
    """W - weight · r rᵀ W, [out, in], for r [out] of length 1; weight 1 takes it out altogether."""
    direction = direction.to(matrix)
    return matrix - weight * torch.outer(direction, direction @ matrix)


def ablated_keeping_norms(
    matrix: torch.Tensor, direction: torch.Tensor, weight: float
) -> torch.Tensor:
    """The same, where what each input writes (a column) gets its former length back, [out, in]."""
    norms: torch.Tensor = matrix.norm(dim=0, keepdim=True)
    return unit(ablated(matrix, direction, weight).T).T * norms


def without_part_along(vector: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The part of a vector at a right angle to another one, [d]."""
    other = unit(other)
    return vector - (vector @ other) * other


Ablate = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


def ablation(
    model: LanguageModel, directions: Mapping[str, torch.Tensor], ablate: Ablate = ablated
) -> Reweighted[torch.Tensor]:
    """Take a direction of length 1 out of each linear layer, by path; whole at strength 1."""
    touched = parameters_in(model, directions)
    return Reweighted(directions, ablate, touched, first=0.3, most=1.0)


class DirectionalAblation(Method):
    """W ← W - s·r rᵀ W for every matrix that writes into the residual stream."""

    name = "directional-ablation"
    title = "directional ablation"
    source = (
        "Arditi et al., Refusal in Language Models Is Mediated by a Single Direction, "
        "NeurIPS 2024, arXiv 2406.11717"
    )
    settings = f"one layer of the first {LAST_SHARE:.0%}, chosen on validation texts"
    note = (
        "The token embedding is left out: with tied embeddings it is the head too. The reference "
        "reads the last tokens of a prompt, here it is the mean over the tokens of a text; and it "
        "chooses by refusal scores under a limit on KL, here it is selectivity at equal KL."
    )

    def fit(self, given: Materials) -> Intervention:
        """Measure a direction at each layer and take the one that serves best."""
        last = max(1, int(LAST_SHARE * given.model.layer_count))
        return best_layer(given, self.variants(given, range(1, last + 1)))

    def variants(self, given: Materials, layers: Sequence[int]) -> list[Reweighted[torch.Tensor]]:
        """The ablation of each layer's direction."""
        states = label_states(given, layers)
        paths = writers(given.model)
        return [
            ablation(given.model, dict.fromkeys(paths, unit(states.difference(layer))))
            for layer in layers
        ]


class Biprojection(DirectionalAblation):
    """Directional ablation beside the opposite's mean, with norms kept.

    The direction of one layer loses, for each block that it is taken out of, its part along the
    mean state of `opposite` at that block. Columns of the writing matrices keep their lengths.
    """

    name = "biprojection"
    title = "norm-preserving biprojected abliteration"
    source = "J. Lai (grimjim), Norm-Preserving Biprojected Abliteration, 2025, Hugging Face blog"
    settings = f"all blocks; one layer of the first {LAST_SHARE:.0%}, chosen on validation texts"
    note = (
        "The reference looks at signal, noise and angles of each layer to choose by hand where "
        "directions come from and which blocks are changed; it reads the last token of a prompt."
    )

    def variants(self, given: Materials, layers: Sequence[int]) -> list[Reweighted[torch.Tensor]]:
        """The ablation of each layer's direction, beside the opposite's mean at each block."""
        model = given.model
        states = label_states(given, range(1, model.layer_count + 1))
        return [
            ablation(model, directions_beside(model, states, layer), ablated_keeping_norms)
            for layer in layers
        ]


def directions_beside(
    model: LanguageModel, states: LabelStates, layer: int
) -> dict[str, torch.Tensor]:
    """A layer's direction for each writer, at a right angle to the opposite's mean there."""
    found: dict[str, torch.Tensor] = {}
    for number, block in enumerate(block_paths(model), start=1):
        mean = states.opposite[number].mean(0)
        direction = unit(without_part_along(states.difference(layer), mean))
        found |= {find(model, block): direction for find in (attention_out, mlp_out)}
    return found
