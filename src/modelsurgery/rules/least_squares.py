"""The least-squares rule: forward passes only, for models whose backward pass can't be had.

The slope of the loss is replaced by what neurons do to the residual stream. With direction v of a
site and responses aᵢ = (v·x) ∂hᵢ/∂gᵢ (`activations.responses`), aᵢ Dᵢ is the first-order change
of the MLP's output, D being the rows that its neurons write. With w, the normalized difference of
the block's mean outputs for either kind of text, and n the mean norm of the residual stream:

- gain bᵢ = −E₊[aᵢ] (w·Dᵢ) / n: how far it moves the outputs of behavior texts against w,
- price Hᵢⱼ = E[aᵢ aⱼ] (Dᵢ·Dⱼ) / n² on neutral text,
- coefficients c = (H + λ tr(H)/f · I)⁻¹ b, a block at a time; score bᵢ cᵢ.

H is f × f. Of a wide MLP the rows with the largest bᵢ²/Hᵢᵢ are solved for and the rest are left.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

ROW_DAMPING = 0.1
MOST_ROWS = 1024  # of a block that are solved for
Array = NDArray[np.float64]


@dataclass(frozen=True)
class SiteResponses:
    """What the rule knows of a site of f rows."""

    behavior: torch.Tensor  # E₊[aᵢ], [f] float64
    squares: torch.Tensor  # E[aᵢ²] on neutral text, [f] float64
    writes: torch.Tensor  # Dᵢ, [f, d]
    outward: torch.Tensor  # w, [d]
    stream_norm: float  # n

    @property
    def gains(self) -> torch.Tensor:
        """bᵢ, [f] float64."""
        moved = self.writes.double() @ self.outward.double()
        return -self.behavior * moved / self.stream_norm

    @property
    def prices(self) -> torch.Tensor:
        """Hᵢᵢ, [f] float64."""
        return self.squares * self.writes.double().square().sum(1) / self.stream_norm**2

    def candidates(self, most: int = MOST_ROWS) -> torch.Tensor:
        """Rows that are solved for, int64 [m], ascending."""
        worth = self.gains.square() / self.prices.clamp(min=torch.finfo(torch.float64).tiny)
        order = torch.argsort(worth, descending=True, stable=True)
        return order[:most].sort().values

    def solve(
        self, chosen: torch.Tensor, products: torch.Tensor, damping: float = ROW_DAMPING
    ) -> tuple[Array, Array]:
        """Coefficients and scores of all rows, [f] each, zero for those not chosen.

        Args:
            chosen: rows that are solved for, [m].
            products: E[aᵢ aⱼ] of these on neutral text, [m, m].
            damping: λ.
        """
        writes = self.writes[chosen].double()
        price = products.double() * (writes @ writes.T) / self.stream_norm**2
        price.diagonal().add_(damping * price.trace() / len(price))
        gains = self.gains
        coefficients = torch.zeros_like(gains)
        coefficients[chosen] = torch.linalg.solve(price, gains[chosen])
        return coefficients.numpy(), (gains * coefficients).numpy()
