"""How neurons respond to a direction at their gates, from forward passes alone.

With v·x the direction's share of a gate's input and h what the down projection reads, the response
aᵢ = (v·x) ∂hᵢ/∂gᵢ is the first-order change of neuron i for a unit of the direction on its row.
The derivative comes from the graph of the activation function, which lives no longer than its MLP.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from modelsurgery.errors import UnsupportedModelError
from modelsurgery.files.atomic import sha256_bytes
from modelsurgery.model.activations.ledger import Sums
from modelsurgery.model.activations.neurons import Neurons, find_neurons
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.activations.sites import GateSite
from modelsurgery.model.activations.texts import TextBatch, TokenizedText
from modelsurgery.model.blocks import block_list
from modelsurgery.model.language_model import LanguageModel


@dataclass(frozen=True)
class BlockOutputs:
    """What blocks write for n kinds of texts."""

    # By number of the block, [n, d] float32; of a text the mean over the positions that predict a
    # counted token, of a kind the mean of its texts.
    means: dict[int, torch.Tensor]
    # By number of the block, mean norm of the outputs for each kind, [n].
    norms: dict[int, torch.Tensor]


@dataclass(frozen=True)
class Responses:
    """Mean responses of neurons to the direction of their site, for n kinds of texts."""

    means: dict[str, torch.Tensor]  # E[aᵢ] by name of the site, [n, rows] float64
    squares: dict[str, torch.Tensor]  # E[aᵢ²], [n, rows] float64
    # E[aᵢ aⱼ] of chosen rows over all kinds, [m, m] float32; empty if none were chosen.
    products: dict[str, torch.Tensor]


def measure_outputs(passes: Passes, kinds: Sequence[Sequence[TokenizedText]]) -> BlockOutputs:
    """Mean outputs of all blocks for each kind of text, in one forward pass."""
    _, blocks = block_list(passes.model)
    width = passes.model.model.config.get_text_config().hidden_size
    sums: Sums = {"counts": torch.zeros(len(kinds))}
    for number in range(len(blocks)):
        sums[f"mean.{number}"] = torch.zeros(len(kinds), width)
        sums[f"norm.{number}"] = torch.zeros(len(kinds))

    def read(kind: int, batch: TextBatch) -> None:
        weights = batch.shares

        def hook(number: int, _: Any, __: Any, output: Any) -> None:
            states = (output[0] if isinstance(output, tuple) else output).flatten(0, 1).float()
            here = weights.to(states.device)
            sums[f"mean.{number}"][kind] += (here @ states).cpu()
            sums[f"norm.{number}"][kind] += (here @ states.norm(dim=1)).cpu()

        with torch.inference_mode(), ExitStack() as stack:
            for number, block in enumerate(blocks):
                stack.enter_context(block.register_forward_hook(partial(hook, number)))
            passes.model.decoder(**batch.inputs, use_cache=False)
        sums["counts"][kind] += len(batch.rows)

    passes.run("block outputs", kinds, sums, read)
    counts = sums["counts"]
    return BlockOutputs(
        {number: sums[f"mean.{number}"] / counts[:, None] for number in range(len(blocks))},
        {number: sums[f"norm.{number}"] / counts for number in range(len(blocks))},
    )


def measure_responses(
    passes: Passes,
    sites: Sequence[GateSite],
    directions: Mapping[str, torch.Tensor],
    kinds: Sequence[Sequence[TokenizedText]],
    chosen: Mapping[str, torch.Tensor] | None = None,
) -> Responses:
    """Mean responses of all neurons to a direction [d] float32 of each site, for n kinds of texts.

    Products are asked for of the `chosen` rows of each site, int64 [m].

    Raises:
        UnsupportedModelError: a site that is no linear layer, or beside no down projection.
    """
    neurons = site_neurons(passes.model, sites)
    rows = chosen or {site.name: torch.zeros(0, dtype=torch.long) for site in sites}
    sums: Sums = {"tokens": torch.zeros(len(kinds), dtype=torch.float64)}
    for site in sites:
        count = len(rows[site.name])
        sums[f"mean.{site.name}"] = torch.zeros(len(kinds), site.rows, dtype=torch.float64)
        sums[f"square.{site.name}"] = torch.zeros(len(kinds), site.rows, dtype=torch.float64)
        sums[f"product.{site.name}"] = torch.zeros(count, count)

    def read(kind: int, batch: TextBatch) -> None:
        counted = batch.predicting.flatten()

        def add(site: GateSite, response: torch.Tensor) -> None:
            used = response[counted.to(response.device)]
            sums[f"mean.{site.name}"][kind] += used.sum(0).double().cpu()
            sums[f"square.{site.name}"][kind] += used.square().sum(0).double().cpu()
            if len(rows[site.name]):
                some = used[:, rows[site.name].to(used.device)]
                sums[f"product.{site.name}"] += (some.T @ some).cpu()

        with torch.no_grad(), _watching_responses(sites, neurons, directions, add):
            passes.model.decoder(**batch.inputs, use_cache=False)
        sums["tokens"][kind] += int(counted.sum())

    used = [sha256_bytes(directions[site.name].numpy().tobytes()) for site in sites]
    picked = [sha256_bytes(rows[site.name].numpy().tobytes()) for site in sites]
    passes.run("responses", kinds, sums, read, used, picked)
    tokens = sums["tokens"]
    return Responses(
        {site.name: sums[f"mean.{site.name}"] / tokens[:, None] for site in sites},
        {site.name: sums[f"square.{site.name}"] / tokens[:, None] for site in sites},
        {site.name: sums[f"product.{site.name}"] / float(tokens.sum()) for site in sites},
    )


def site_neurons(model: LanguageModel, sites: Sequence[GateSite]) -> dict[str, Neurons]:
    """The neurons of sites.

    Raises:
        UnsupportedModelError: a site that is no linear layer, or beside no down projection.
    """
    found = find_neurons(model, [site.gates[0].address for site in sites])
    by_name = {site.name: found[site.gates[0].address] for site in sites}
    for site in sites:
        if not site.is_linear or by_name[site.name].down is None:
            raise UnsupportedModelError(
                f"{site.name}: the least-squares rule needs a gate projection and a down "
                "projection that see every token; use --rule natural-gradient"
            )
    return by_name


@contextmanager
def _watching_responses(
    sites: Sequence[GateSite],
    neurons: Mapping[str, Neurons],
    directions: Mapping[str, torch.Tensor],
    add: Callable[[GateSite, torch.Tensor], None],
) -> Iterator[None]:
    """Tell of each site's responses, [tokens, rows] float32, while a model reads."""
    along: dict[str, torch.Tensor] = {}
    gates: dict[str, torch.Tensor] = {}

    def on_gate(
        site: GateSite, _: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor:
        along[site.name] = inputs[0] @ directions[site.name].to(inputs[0])
        gates[site.name] = output.detach().requires_grad_()
        torch.set_grad_enabled(True)  # until the down projection reads
        return gates[site.name]

    def on_down(
        site: GateSite, _: Any, inputs: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        (slope,) = torch.autograd.grad(inputs[0].sum(), gates.pop(site.name))
        torch.set_grad_enabled(False)
        response = site.pick(slope) * along.pop(site.name).unsqueeze(-1)
        add(site, response.reshape(-1, site.rows).float())
        return (inputs[0].detach(), *inputs[1:])

    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(site.module.register_forward_hook(partial(on_gate, site)))
            down = neurons[site.name].down
            assert down is not None
            stack.enter_context(down.register_forward_pre_hook(partial(on_down, site)))
        yield
