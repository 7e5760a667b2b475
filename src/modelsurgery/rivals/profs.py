"""ProFS: a subspace of several directions is projected out of what MLPs write."""

import torch

from modelsurgery.model.language_model import LanguageModel
from modelsurgery.rivals.intervention import Intervention, Reweighted, parameters_in
from modelsurgery.rivals.method import Materials, Method
from modelsurgery.rivals.places import block_paths, mlp_out
from modelsurgery.rivals.states import pooled_outputs

PAIRS = 500
SMALL = 1e9  # parameters of a model, below which few directions are taken
RANK_OF_SMALL, RANK = 2, 10  # of GPT-2 medium, and of models of 7B


def subspace(shows: torch.Tensor, opposite: torch.Tensor, rank: int) -> torch.Tensor:
    """Main directions in which pairs differ, [d, rank] at right angles; at most n of n pairs.

    Both are [n, d], one half of the pairs each. What the opposite has in common is left out.
    """
    differences = shows - opposite
    # The first right singular vector of states that are not centered is their mean, nearly.
    common = torch.linalg.svd(opposite, full_matrices=False).Vh[0]
    differences = differences - torch.outer(differences @ common, common)
    directions: torch.Tensor = torch.linalg.svd(differences, full_matrices=False).Vh
    return directions[:rank].T


class ProjectionFilter(Method):
    """W ← (I - s·P) W for the MLPs' writing matrices in the upper half of the blocks."""

    name = "profs"
    title = "ProFS"
    source = (
        "Uppaal et al., Model Editing as a Robust and Denoised Variant of DPO: A Case Study on "
        "Toxicity, ICLR 2025, arXiv 2405.13967"
    )
    settings = (
        f"up to {PAIRS} pairs, rank {RANK}, of models below a billion parameters "
        f"{RANK_OF_SMALL}; upper half of the blocks"
    )
    note = (
        "The reference begins at block 11 of 24 or 16 of 32, and tunes the rank for each model. "
        "Texts without a group are paired in order, those of the reference answer one prompt."
    )

    def fit(self, given: Materials) -> Intervention:
        """Take a subspace of each block's own output."""
        model, rank = given.model, rank_for(given.model)
        layers = range(model.layer_count // 2 + 1, model.layer_count + 1)
        halves = zip(*given.pairs[:PAIRS], strict=True)
        shows, opposite = (pooled_outputs(model, given.read(texts), layers) for texts in halves)
        blocks = block_paths(model)
        bases = {
            mlp_out(model, blocks[layer - 1]): subspace(shows[layer], opposite[layer], rank)
            for layer in layers
        }
        return Reweighted(bases, without_subspace, parameters_in(model, bases), most=1.0)


def without_subspace(matrix: torch.Tensor, basis: torch.Tensor, share: float) -> torch.Tensor:
    """W - share · Q Qᵀ W of a matrix W [out, in], where Q is [out, k]."""
    basis = basis.to(matrix)
    return matrix - share * basis @ (basis.T @ matrix)


def rank_for(model: LanguageModel) -> int:
    """How many directions a model of this size loses."""
    parameters = sum(one.numel() for one in model.model.parameters())
    return RANK_OF_SMALL if parameters < SMALL else RANK
