"""Statistics of activations: what gates read, and how much a loss depends on them.

Passes over texts, none of which keeps a gradient of a weight:

- `measure_inputs`, forward: the mean input of every gate site for each kind of text.
- `measure_moments`, forward: the second moment E[x xᵀ] of a site's input on neutral text, as a
  matrix or, of wide models, as a sample of inputs (`moments`).
- `measure_prices`, forward and backward on neutral text: E[γᵢ²] of every row, γ = ∂ℓ/∂g being the
  gradient by the gates of the loss of labels that the model draws itself (the Fisher information:
  its quadratic form is twice the KL).
- `measure_gains`, forward and backward on texts: E[γᵢ (v·x)], the slope of the loss when row i gets
  the direction v.

x is the input of a gate projection (after its norm), g = W x its output. Memory does not grow with
the number of texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from modelsurgery.files.atomic import sha256_bytes
from modelsurgery.model.activations.ledger import Sums
from modelsurgery.model.activations.moments import Moment, MomentSums
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.activations.sites import GateSite, by_token, watching_gates, watching_inputs
from modelsurgery.model.activations.texts import TextBatch, TokenizedText

PRIME = 7919  # batches draw labels with seeds of their own


@dataclass(frozen=True)
class Gains:
    """Slopes of losses for a unit of each of a site's k directions on each row."""

    # [n, folds, k, experts, rows] float64 by name of the site: sums over the predicted tokens of
    # each kind's fold.
    by_site: dict[str, torch.Tensor]
    tokens: torch.Tensor  # how many these are, [n, folds] float64


def measure_inputs(
    passes: Passes, sites: Sequence[GateSite], kinds: Sequence[Sequence[TokenizedText]]
) -> dict[str, torch.Tensor]:
    """Mean inputs of sites for n kinds of texts, in one forward pass without the head.

    [n, d] float32 by name of the site; of a text the mean over the positions that predict a
    counted token, of a kind the mean of its texts.
    """
    sums: Sums = {site.name: torch.zeros(len(kinds), site.hidden_size) for site in sites}
    sums["counts"] = torch.zeros(len(kinds))

    def read(number: int, batch: TextBatch) -> None:
        weights = batch.shares

        def add(site: GateSite, inputs: torch.Tensor) -> None:
            read_here = by_token(inputs, weights)
            sums[site.name][number] += (weights.to(inputs.device) @ read_here).cpu()

        with torch.inference_mode(), watching_inputs(sites, add):
            passes.model.decoder(**batch.inputs, use_cache=False)
        sums["counts"][number] += len(batch.rows)

    passes.run("gate inputs", kinds, sums, read)
    counts = sums.pop("counts")
    return {name: total / counts[:, None] for name, total in sums.items()}


def measure_moments(
    passes: Passes, sites: Sequence[GateSite], texts: Sequence[TokenizedText]
) -> dict[str, Moment]:
    """Second moment E[x xᵀ] of each site's input by name, in one forward pass."""
    kept = MomentSums(passes, sites, texts)
    sums = {**kept.empty(), "tokens": torch.zeros(1, dtype=torch.float64)}

    def read(_: int, batch: TextBatch) -> None:
        with torch.inference_mode(), kept.watching(batch, sums):
            passes.model.decoder(**batch.inputs, use_cache=False)
        sums["tokens"] += batch.tokens

    passes.run("moments", [texts], sums, read, *kept.settings)
    return kept.moments(sums)


def measure_prices(
    passes: Passes, sites: Sequence[GateSite], texts: Sequence[TokenizedText], *, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Mean squares E[γᵢ²] of the gradients of rows on neutral text, a predicted token.

    [experts, rows] float64 of each site, by name. `seed`: of the labels that the model draws.
    """
    reader = passes.reader()
    sums: Sums = {"tokens": torch.zeros(1, dtype=torch.float64)}
    for site in sites:
        shape = len(site.gates), site.rows
        sums[site.name] = torch.zeros(shape, dtype=torch.float64, device=site.device)

    def on_gate(site: GateSite, first: int, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        count = len(inputs)

        def on_gradient(gradient: torch.Tensor) -> None:
            rows = site.pick(gradient).reshape(count, -1, site.rows).float()
            sums[site.name][first : first + count] += rows.square().sum(1).double()

        outputs.register_hook(on_gradient)

    def read(_: int, batch: TextBatch) -> None:
        with watching_gates(passes.model.model, sites, on_gate):
            reader.backward(batch, drawn=seed + PRIME * batch.rows[0])
        sums["tokens"] += int(batch.predicted.sum())

    passes.run("prices", [texts], sums, read, seed, batch_tokens=reader.batch_tokens)
    predicted = float(sums.pop("tokens"))
    return {name: total / predicted for name, total in sums.items()}


def measure_gains(
    passes: Passes,
    sites: Sequence[GateSite],
    directions: Mapping[str, torch.Tensor],
    kinds: Sequence[Sequence[Sequence[TokenizedText]]],
) -> Gains:
    """Slopes of the loss along each site's directions, [k, d] float32.

    `kinds` are n kinds of texts, each in the same number of folds.
    """
    folds = len(kinds[0])
    parts = [fold for kind in kinds for fold in kind]
    sums: Sums = {"tokens": torch.zeros(len(parts), dtype=torch.float64)}
    for site in sites:
        shape = (len(parts), len(directions[site.name]), len(site.gates), site.rows)
        sums[site.name] = torch.zeros(shape, dtype=torch.float64, device=site.device)
    reader = passes.reader()

    def read(number: int, batch: TextBatch) -> None:
        def on_gate(
            site: GateSite, first: int, inputs: torch.Tensor, outputs: torch.Tensor
        ) -> None:
            # Only the products with the directions outlive the forward pass.
            along = (inputs.detach() @ directions[site.name].to(inputs).T).float()
            count = len(inputs)

            def on_gradient(gradient: torch.Tensor) -> None:
                rows = site.pick(gradient).reshape(count, -1, site.rows).float()
                slopes = torch.einsum("etk,etr->ker", along, rows)
                sums[site.name][number, :, first : first + count] += slopes.double()

            outputs.register_hook(on_gradient)

        with watching_gates(passes.model.model, sites, on_gate):
            reader.backward(batch)
        sums["tokens"][number] += int(batch.predicted.sum())

    used = [sha256_bytes(directions[site.name].numpy().tobytes()) for site in sites]
    passes.run("gains", parts, sums, read, used, batch_tokens=reader.batch_tokens)
    tokens = sums.pop("tokens")
    return Gains(
        {name: one.unflatten(0, (len(kinds), folds)) for name, one in sums.items()},
        tokens.unflatten(0, (len(kinds), folds)),
    )
