"""Wanda pruning: small weights on small inputs are set to 0."""

from collections.abc import Sequence

import torch

from modelsurgery.errors import UnsupportedModelError
from modelsurgery.model.activations.texts import (
    TextBatch,
    TokenizedText,
    texts_up_to,
    tokenize_plain,
)
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.rivals.intervention import Intervention, Reweighted, parameters_in
from modelsurgery.rivals.method import Materials, Method
from modelsurgery.rivals.places import attention_layers, block_paths
from modelsurgery.rivals.states import watch_modules

TOKENS = 16_384  # of calibration text
MOST = 0.6  # sparsity at which a model falls apart
FIRST = 0.1  # the least of the paper's


class Wanda(Method):
    """The weights of attention layers with the lowest |W_ij| · ‖x_j‖, set to 0.

    Compared within a row, that is for one output; strength is the share of each row. It knows no
    direction: what is pruned is the same toward a behavior and away from it.
    """

    name = "wanda"
    title = "Wanda pruning"
    source = (
        "Hasan et al., Pruning for Protection, BlackboxNLP 2024, arXiv 2401.10862; Sun et al., "
        "A Simple and Effective Pruning Approach for Large Language Models, arXiv 2306.11695"
    )
    settings = f"attention layers, rows compared, {TOKENS:,} tokens of neutral text"
    note = (
        "Inputs are those of the base model; the reference prunes block by block, so that later "
        "blocks see pruned ones. Its calibration text is C4."
    )

    def fit(self, given: Materials) -> Intervention:
        """Measure the inputs of attention layers on neutral text."""
        model = given.model
        paths = tuple(
            path for block in block_paths(model) for path in attention_layers(model, block)
        )
        if not paths:
            raise UnsupportedModelError(
                "no linear layer of an attention was found; leave wanda out with --method"
            )
        texts = texts_up_to(tokenize_plain(model, given.neutral), TOKENS)
        norms = input_norms(model, texts, paths)
        return Reweighted(norms, pruned, parameters_in(model, norms), first=FIRST, most=MOST)


def input_norms(
    model: LanguageModel, texts: Sequence[TokenizedText], paths: Sequence[str]
) -> dict[str, torch.Tensor]:
    """‖x_j‖₂ of each input over all tokens, padding left out, [in] f32 on the CPU by path."""
    squares: dict[str, torch.Tensor] = {}

    def look(batch: TextBatch, path: str, read: torch.Tensor, _: torch.Tensor) -> None:
        mask = batch.inputs["attention_mask"].bool().to(read.device)
        added = read[mask].double().square().sum(0).cpu()
        squares[path] = squares.get(path, torch.zeros_like(added)) + added

    watch_modules(model, texts, paths, look)
    return {path: one.sqrt().float() for path, one in squares.items()}


def pruned(matrix: torch.Tensor, norms: torch.Tensor, share: float) -> torch.Tensor:
    """A matrix [out, in] without the share of each row that matters least; norms are [in]."""
    scores = matrix.abs() * norms.to(matrix.device)
    least = scores.argsort(dim=1, stable=True)[:, : int(share * matrix.shape[1])]
    return matrix.scatter(1, least, 0.0)
