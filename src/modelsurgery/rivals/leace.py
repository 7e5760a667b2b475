"""LEACE: the least affine change after which no linear function tells the label."""

from dataclasses import dataclass
from functools import reduce

import torch

from modelsurgery.model.activations.texts import TokenizedText
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.rivals.intervention import Hooked, Intervention
from modelsurgery.rivals.method import Materials, Method
from modelsurgery.rivals.places import block_paths
from modelsurgery.rivals.states import block_outputs


@dataclass(frozen=True)
class Eraser:
    """x ← x - a bᵀ(x - μ), the least-squares eraser of one binary label.

    With Σ the covariance of x and a its cross-covariance with the label, b = Σ⁺a / (aᵀΣ⁺a): the
    paper's W⁺ P W with W = Σ^(-1/2) has rank 1 for a label of two values. All are [d] f64.
    """

    mean: torch.Tensor  # μ
    written: torch.Tensor  # a
    read: torch.Tensor  # b

    def __call__(self, hidden: torch.Tensor, strength: float) -> torch.Tensor:
        """Erase a share of it from states [..., d]."""
        mean, written, read = (
            one.to(hidden.device, torch.float32) for one in (self.mean, self.written, self.read)
        )
        along = (hidden.float() - mean) @ read
        return hidden - (strength * along.unsqueeze(-1) * written).to(hidden)


@dataclass
class Moments:
    """Sums over the states of one label."""

    count: int
    total: torch.Tensor  # Σ x, [d] f64
    square: torch.Tensor  # Σ x xᵀ, [d, d] f64

    @classmethod
    def of(cls, states: torch.Tensor) -> "Moments":
        """Of states [n, d]."""
        wide = states.double()
        return cls(len(wide), wide.sum(0), wide.T @ wide)

    def plus(self, other: "Moments") -> "Moments":
        """Both together."""
        return Moments(
            self.count + other.count, self.total + other.total, self.square + other.square
        )


def eraser(shows: Moments, opposite: Moments) -> Eraser:
    """The eraser of which of two kinds a state is of."""
    both = shows.plus(opposite)
    mean = both.total / both.count
    covariance = both.square / both.count - torch.outer(mean, mean)
    share = shows.count / both.count
    written = share * (shows.total / shows.count - mean)
    solved = torch.linalg.pinv(covariance, hermitian=True) @ written
    return Eraser(mean, written, solved / (written @ solved))


def moments_of(model: LanguageModel, texts: list[TokenizedText], layer: int) -> Moments:
    """Of all tokens of texts behind a block."""
    read = block_outputs(model, texts, [layer])
    return reduce(Moments.plus, (Moments.of(some.tokens(layer)) for some in read))


class LeastSquaresErasure(Method):
    """Erasers behind all blocks, each fitted where those before it are at work."""

    name = "leace"
    title = "LEACE concept scrubbing"
    source = (
        "Belrose et al., LEACE: Perfect Linear Concept Erasure in Closed Form, NeurIPS 2023, "
        "arXiv 2306.03819"
    )
    delivery = "hooks"
    settings = "all blocks, one after the other; all tokens of a text have its label"
    note = (
        "The reference shrinks the covariance, and erases labels of tokens (parts of speech); "
        "strength below 1 erases a share."
    )

    def fit(self, given: Materials) -> Intervention:
        """Go through the blocks from the first to the last."""
        model = given.model
        shows, opposite = given.read(given.shows), given.read(given.opposite)
        changes: dict[str, Eraser] = {}
        with given.progress("erase labels", model.layer_count) as advance:
            for layer, path in enumerate(block_paths(model), start=1):
                with Hooked(changes).applied(model, 1.0):
                    changes[path] = eraser(
                        moments_of(model, shows, layer), moments_of(model, opposite, layer)
                    )
                advance(1)
        touched = sum(3 * len(one.mean) for one in changes.values())
        return Hooked(changes, touched, most=1.0)
