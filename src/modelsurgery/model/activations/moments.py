"""Second moments A = E[x xᵀ] of what gate sites read, as a matrix or as a sample of inputs.

The matrix of a site takes d² values, a gigabyte at d = 16,384. Wider models keep n of the inputs
in its place: A is then XᵀX / n, and (A + μI)⁻¹ δ is solved in the space of the n inputs by the
Woodbury identity, (A + μI)⁻¹ = (I − Xᵀ (XXᵀ + nμI)⁻¹ X) / μ.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import torch

from modelsurgery.model.activations.ledger import Sums
from modelsurgery.model.activations.passes import FORWARD_TOKENS, Passes
from modelsurgery.model.activations.sites import GateSite, by_token, watching_inputs
from modelsurgery.model.activations.texts import TextBatch, TokenizedText, text_batches

WIDEST_MATRIX = 8192  # hidden size up to which the matrix itself is kept
SAMPLES = 2048  # inputs of a site that are kept for wider models
EXACT_WIDTH = 2048  # up to this width a CPU solves in f64 too


@dataclass(frozen=True)
class DenseMoment:
    """A second moment as a matrix, [d, d] float32."""

    matrix: torch.Tensor

    def solve(self, vectors: torch.Tensor, damping: float) -> torch.Tensor:
        """(A + λ tr(A)/d · I)⁻¹ of each of the vectors [k, d], [k, d] on the CPU."""
        width, place = len(self.matrix), self.matrix.device
        exact = torch.float64 if width <= EXACT_WIDTH or self.matrix.is_cuda else torch.float32
        damped = self.matrix.to(exact, copy=True)
        damped.diagonal().add_(damping * damped.trace() / width)
        factor = torch.linalg.cholesky(damped)
        return torch.cholesky_solve(vectors.T.to(place, exact), factor).T.cpu()

    def overlap(self, directions: torch.Tensor) -> torch.Tensor:
        """VᵀA V of k directions [k, d], [k, k] float64 on the CPU."""
        wide = directions.to(self.matrix)
        return (wide @ self.matrix @ wide.T).double().cpu()


@dataclass(frozen=True)
class SampledMoment:
    """A second moment XᵀX / n as X: inputs, [n, d] in the dtype that the model computes in."""

    inputs: torch.Tensor

    def solve(self, vectors: torch.Tensor, damping: float) -> torch.Tensor:
        """(A + λ tr(A)/d · I)⁻¹ of each of the vectors [k, d], [k, d] on the CPU."""
        # In f64 always: what is left of a vector where inputs are large is a small difference.
        read = self.inputs.double()
        count, width = read.shape
        products = read @ read.T
        added = damping * products.trace() / width  # n μ
        products.diagonal().add_(added)
        given = vectors.to(read)
        inside = torch.cholesky_solve(read @ given.T, torch.linalg.cholesky(products))
        return ((given - inside.T @ read) * (count / added)).cpu()

    def overlap(self, directions: torch.Tensor) -> torch.Tensor:
        """VᵀA V of k directions [k, d], [k, k] float64 on the CPU."""
        along = (self.inputs.float() @ directions.to(self.inputs.device).float().T).double()
        return (along.T @ along / len(along)).cpu()


Moment = DenseMoment | SampledMoment


@dataclass(frozen=True)
class MomentSums:
    """What is kept of the inputs of sites while texts are read, for their second moments.

    Sums of x xᵀ, or some of the inputs: as far apart as their number allows, in the order in which
    they are read. `sums` holds the tokens read before as the first entry of `tokens`.
    """

    passes: Passes
    sites: Sequence[GateSite]
    texts: Sequence[TokenizedText]

    @cached_property
    def _tokens(self) -> int:
        """How many tokens are read altogether."""
        batches = text_batches(self.passes.model, self.texts, FORWARD_TOKENS)
        return sum(batch.tokens for batch in batches)

    def _samples(self, site: GateSite) -> int | None:
        count = samples_kept(site.hidden_size, self.passes.samples)
        return None if count is None else min(count, self._tokens)

    @property
    def settings(self) -> list[int]:
        """What sums depend on besides model and texts; nothing where matrices are kept."""
        kept = {self._samples(site) for site in self.sites}
        return sorted(count for count in kept if count is not None)

    def empty(self) -> Sums:
        """Zeros, by site."""
        found: Sums = {}
        for site in self.sites:
            count, width = self._samples(site), site.hidden_size
            place = site.device
            if count is None:
                found[f"moment.{site.name}"] = torch.zeros(width, width, device=place)
            else:  # in the model's own dtype, in which inputs come
                dtype = self.passes.model.model.dtype
                found[f"inputs.{site.name}"] = torch.zeros(count, width, dtype=dtype, device=place)
        return found

    def watching(self, batch: TextBatch, sums: Sums) -> AbstractContextManager[None]:
        """Keep what each site reads in a batch, padding left out."""
        mask = batch.inputs["attention_mask"].bool().flatten()
        before = int(sums["tokens"][0])

        def add(site: GateSite, inputs: torch.Tensor) -> None:
            used = by_token(inputs, mask)[mask.to(inputs.device)]
            count = self._samples(site)
            if count is None:
                sums[f"moment.{site.name}"] += used.T @ used
                return
            # Input t goes to place ⌊t n / N⌋ if it is the first one there.
            numbers = torch.arange(before, before + len(used), device=used.device) * count
            chosen = numbers % self._tokens < count
            places = numbers[chosen] // self._tokens
            kept = sums[f"inputs.{site.name}"]
            kept[places.to(kept.device)] = used[chosen].to(kept)

        return watching_inputs(self.sites, add)

    def moments(self, sums: Sums) -> dict[str, Moment]:
        """The moments, by name of the site."""
        seen = float(sums["tokens"][0])
        return {
            site.name: DenseMoment(sums[f"moment.{site.name}"] / seen)
            if self._samples(site) is None
            else SampledMoment(sums[f"inputs.{site.name}"])
            for site in self.sites
        }


def samples_kept(hidden_size: int, samples: int | None = None) -> int | None:
    """Inputs of a site that are kept, as asked for or by the width; None keeps the matrix."""
    if samples is not None:
        return samples
    return SAMPLES if hidden_size > WIDEST_MATRIX else None


def moment_bytes(hidden_size: int, itemsize: int) -> tuple[int, int]:
    """Bytes that a site's moment takes, and what solving with it takes besides.

    `itemsize` is that of the values that the model computes with.
    """
    count = samples_kept(hidden_size)
    if count is None:
        exact = 8 if hidden_size <= EXACT_WIDTH else 4
        return 4 * hidden_size**2, 2 * exact * hidden_size**2
    return count * hidden_size * itemsize, 8 * count * (hidden_size + 2 * count)
