"""AlphaSteer: a steering vector that is added where a state is not like those of neutral text."""

import torch

from modelsurgery.model.activations.texts import texts_up_to, tokenize_plain
from modelsurgery.rivals.intervention import Hooked, Intervention, OutputChange
from modelsurgery.rivals.method import Materials, Method
from modelsurgery.rivals.places import block_paths
from modelsurgery.rivals.states import block_outputs, label_states

FIRST_SHARE, LAST_SHARE = 8 / 32, 19 / 32  # of the blocks; those of Llama 3.1 8B in the reference
NULL_SHARE = 0.6  # of the directions, those that neutral text uses least
RIDGE = 10.0
NEUTRAL_TOKENS = 20_000


def null_basis(second_moment: torch.Tensor, share: float = NULL_SHARE) -> torch.Tensor:
    """Directions that states with Σ x xᵀ [d, d] use least, [d, share · d] at right angles."""
    vectors: torch.Tensor = torch.linalg.eigh(second_moment).eigenvectors  # least first
    return vectors[:, : int(share * len(vectors))]


def reader(states: torch.Tensor, basis: torch.Tensor, ridge: float = RIDGE) -> torch.Tensor:
    """What gives about 1 for states, by way of a subspace: w with w·x ≈ 1, [d].

    Every state is to be mapped to the same vector v, so that the ridge regression Δ P of the paper
    has rank 1: Δ P x = (w·x) v, w = Q (QᵀXᵀX Q + λI)⁻¹ QᵀXᵀ 1 with P = Q Qᵀ, for states X [n, d],
    a basis Q [d, k] and a ridge λ.
    """
    inside = states.to(basis) @ basis
    damped = inside.T @ inside
    damped.diagonal().add_(ridge)
    solved: torch.Tensor = torch.linalg.solve(damped, inside.sum(0))
    return basis @ solved


class AlphaSteer(Method):
    """x ← x + s·(w·x)·(μ_opposite - μ_shows) behind the middle blocks."""

    name = "alphasteer"
    title = "AlphaSteer"
    source = (
        "Sheng et al., AlphaSteer: Learning Refusal Steering with Principled Null-Space "
        "Constraint, ICLR 2026, arXiv 2506.07022"
    )
    delivery = "hooks"
    settings = (
        f"blocks 8 to 19 of 32, in proportion; the {NULL_SHARE:.0%} least used directions, "
        f"ridge {RIDGE:g}"
    )
    note = (
        "The reference leaves out some of these blocks, and takes 30% to 60% of the directions at "
        "each; it reads the last token of a prompt, here it is all tokens of neutral text and "
        "means over texts that show the behavior."
    )

    def fit(self, given: Materials) -> Intervention:
        """Learn one reading direction and one steering vector a block."""
        model = given.model
        first, last = (
            max(1, round(share * model.layer_count)) for share in (FIRST_SHARE, LAST_SHARE)
        )
        layers = range(first, last + 1)
        states = label_states(given, layers)
        moments = neutral_moments(given, layers)
        changes: dict[str, OutputChange] = {}
        for layer in layers:
            read = reader(states.shows[layer], null_basis(moments[layer]))
            changes[block_paths(model)[layer - 1]] = steering(read, -states.difference(layer))
        touched = 2 * states.shows[first].shape[1] * len(changes)
        return Hooked(changes, touched, first=0.3)


def steering(read: torch.Tensor, vector: torch.Tensor) -> OutputChange:
    """X ← x + s·(read·x)·vector."""

    def change(hidden: torch.Tensor, strength: float) -> torch.Tensor:
        along = hidden.float() @ read.to(hidden.device, torch.float32)
        added = strength * along.unsqueeze(-1) * vector.to(hidden.device, torch.float32)
        return hidden + added.to(hidden)

    return change


def neutral_moments(given: Materials, layers: range) -> dict[int, torch.Tensor]:
    """Σ x xᵀ over tokens of neutral text, [d, d] f64 by layer."""
    texts = texts_up_to(tokenize_plain(given.model, given.neutral), NEUTRAL_TOKENS)
    found: dict[int, torch.Tensor] = {}
    for some in block_outputs(given.model, texts, layers):
        for layer in layers:
            states = some.tokens(layer)
            square = (states.T @ states).double()
            found[layer] = found[layer] + square if layer in found else square
    return found
