"""The natural-gradient rule: the change that moves the behavior most for its price.

For a gate site with input x and gates g = W x:

- direction v = (A + λ tr(A)/d · I)⁻¹ (μ₊ − μ₋), normalized: μ are mean inputs of either kind of
  text, A = E[x xᵀ] on neutral text. It tells the behavior and is silent on neutral text.
- gain of row i: bᵢ = E₊[γᵢ (v·x)] − E₋[γᵢ (v·x)], γ = ∂ℓ/∂g: how fast the loss on the behavior
  rises over that on its opposite with the row's coefficient.
- price: Fᵢ = E[γᵢ²] vᵀA v with labels drawn from the model, on neutral text: KL ≈ ½ Σ Fᵢ cᵢ².
  Inputs and gradients are taken as independent (K-FAC; Martens and Grosse 2015).
- what is kept: from bᵢ may go w E₀[γᵢ (v·x)], the slope of the loss on neutral text itself. The
  price is of second order and says nothing about the first: without it an edit of the same KL may
  raise the perplexity of text that it should leave alone.
- coefficient cᵢ = bᵢ / (Fᵢ + λ F̄), score bᵢ² / (Fᵢ + λ F̄): the gain inside a fixed price.

Several directions of a site make vᵀA v a matrix, and bᵢ and cᵢ vectors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student

from modelsurgery.model.activations.moments import Moment
from modelsurgery.model.activations.statistics import Gains

DIRECTION_DAMPING = 0.1
ROW_DAMPING = 0.1
KEPT_WEIGHT = 10.0  # w: what a nat on neutral text counts for, at most (docs/log.md)
KEPT_TOKENS = 6000  # of neutral text, from which on it counts in full: fewer are mostly noise
PROBING_DIVERGENCE = 0.01  # at which gains are compared

Array = NDArray[np.float64]


def whitened_directions(
    moment: Moment,
    means: torch.Tensor,
    weights: Sequence[Sequence[float]],
    *,
    damping: float = DIRECTION_DAMPING,
) -> torch.Tensor:
    """Directions [k, d] float32 of a site, of unit length, on the CPU.

    Args:
        moment: second moment A of the site's inputs on neutral text.
        means: mean inputs of n kinds of texts, [n, d].
        weights: of each direction, what each kind's mean counts for, [k, n].
        damping: λ of the direction.
    """
    differences = torch.tensor(weights, dtype=torch.float64) @ means.double()
    solved = moment.solve(differences, damping)
    unit: torch.Tensor = (solved / solved.norm(dim=1, keepdim=True)).float()
    return unit


@dataclass(frozen=True)
class SiteSlopes:
    """What the rule knows of a site, for a unit of each of k directions on each row."""

    whole: Array  # rise of what is wanted, nats per token, [k, experts, rows]
    folds: Array  # the same in each fold of the texts alone, [folds, k, experts, rows]
    without: Array  # the same without each fold, [folds, k, experts, rows]
    squares: Array  # E[γᵢ²], [experts, rows]
    overlap: Array  # VᵀA V of the directions on neutral text, [k, k]

    @property
    def mean_price(self) -> float:
        """Mean price of a row and direction."""
        return float(self.squares.mean() * np.trace(self.overlap) / len(self.overlap))

    def along(self, own: slice) -> "SiteSlopes":
        """The same of some of the directions alone."""
        return replace(
            self,
            whole=self.whole[own],
            folds=self.folds[:, own],
            without=self.without[:, own],
            overlap=self.overlap[own, own],
        )


def site_slopes(
    gains: Gains,
    name: str,
    moment: Moment,
    squares: torch.Tensor,
    directions: torch.Tensor,
    weights: Sequence[float],
) -> SiteSlopes:
    """Slopes of what is wanted: the weighted sum of the mean losses of kinds of texts.

    Args:
        gains: of n kinds of texts in folds.
        name: of the gate site.
        moment: second moment of its inputs on neutral text.
        squares: E[γᵢ²] on neutral text, [experts, rows].
        directions: of the site, [k, d].
        weights: what a rise of each kind's mean loss counts for, [n].
    """
    sums = gains.by_site[name].cpu().numpy()  # [n, folds, k, experts, rows]
    tokens = gains.tokens.numpy()
    total, all_tokens = sums.sum(1), tokens.sum(1)

    def wanted(some: Array, seen: Array) -> Array:
        share = np.reshape(weights, (-1, *[1] * (some.ndim - 1)))
        means = some / np.maximum(seen, 1)[..., None, None, None]
        return np.asarray((share * means).sum(0))

    return SiteSlopes(
        wanted(total, all_tokens),
        wanted(sums, tokens),
        wanted(total[:, None] - sums, all_tokens[:, None] - tokens),
        squares.cpu().numpy(),
        moment.overlap(directions).numpy(),
    )


def solve_rows(slopes: Array, known: SiteSlopes, added: float) -> Array:
    """Coefficients of slopes [k, experts, rows] at a site: (price + added · I)⁻¹ slopes."""
    if len(slopes) == 1:
        return np.asarray(slopes / (known.squares * known.overlap[0, 0] + added))
    prices = known.squares[..., None, None] * known.overlap + added * np.eye(len(slopes))
    solved = np.linalg.solve(prices, np.moveaxis(slopes, 0, -1)[..., None])[..., 0]
    return np.asarray(np.moveaxis(solved, -1, 0))


def priced(coefficients: Array, known: SiteSlopes) -> Array:
    """Predicted KL of each row's coefficients [k, experts, rows] alone, nats per token.

    [k, experts, rows], in parts of directions that add up to the row's.
    """
    crossed = coefficients * np.einsum("kl,ler->ker", known.overlap, coefficients)
    return np.asarray(crossed * known.squares / 2)


@dataclass(frozen=True)
class Evidence:
    """Whether the texts agree on what to change."""

    # Predicted gain, nats per token, at a predicted KL of 0.01, on folds that the coefficients were
    # not fitted on; mean over folds.
    gain: float
    error: float  # its standard error over folds, of texts that agree on nothing
    folds: int  # number of folds

    @property
    def is_clear(self) -> bool:
        """Whether the gain is over zero by more than chance explains (one-sided t test, 95 %)."""
        return self.gain > float(student.ppf(0.95, self.folds - 1)) * self.error


def agreement_of_folds(sites: Sequence[SiteSlopes]) -> Evidence:
    """What coefficients from some of the texts promise on the others."""
    added = ROW_DAMPING * float(np.mean([site.mean_price for site in sites]))
    count = len(sites[0].folds)
    found = []
    for fold in range(count):
        gain = price = 0.0
        for site in sites:
            coefficients = solve_rows(site.without[fold], site, added)
            gain += float((coefficients * site.folds[fold]).sum())
            price += float(priced(coefficients, site).sum())
        found.append(gain * np.sqrt(PROBING_DIVERGENCE / price) if price > 0 else 0.0)
    spread = float(np.std(found, ddof=1)) if count > 1 else 0.0
    error = spread * _error_share(count) if count > 2 else float("inf")
    return Evidence(float(np.mean(found)), error, count)


def _error_share(folds: int) -> float:
    """Standard error of the mean of n folds' gains over their standard deviation, without a signal.

    Gains are not independent: with pₐᵦ the product of what two folds say, fold a gains
    Σᵦ pₐᵦ / (n - 1), so each product is in two gains, and 1/√n would be too small. With independent
    products the mean has 2 / (n (n - 1)) of their variance, and the gains' sample variance is
    (n - 2) / (n - 1)² of it.
    """
    return math.sqrt(2 * (folds - 1) / (folds * (folds - 2)))
