"""Where a loaded model computes its gates, and watching them while it reads.

A gate site is a parameter that holds gate matrices: the weight of a linear layer (one matrix), or
the fused weights of a mixture's experts (a matrix for each expert, which sees the tokens that
reach it). Watching changes nothing in what the model computes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from modelsurgery.apply.in_memory import loaded_gates
from modelsurgery.apply.loaded_weights import rows_in, running_device, stored_values
from modelsurgery.checkpoint.layouts import GateLayout, GateMatrix

# Is told of a product: the site, the first of its matrices, inputs [e, n, d] of e matrices, and
# outputs of as many values as [e, n, o], which are part of the model's own graph.
Watch = Callable[["GateSite", int, torch.Tensor, torch.Tensor], None]
# How experts are written out in transformers' eager code, which alone shows each expert's tokens.
PRODUCTS = (
    torch.nn.functional.linear,
    torch.matmul,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.bmm,
    torch.Tensor.bmm,
)


@dataclass(frozen=True)
class GateSite:
    """A parameter of a loaded model that holds gate matrices."""

    name: str  # of the parameter
    module: torch.nn.Module  # what it belongs to; its first argument is what the gates read
    gates: tuple[GateMatrix, ...]  # its matrices, one, or one for each expert in order
    # Which outputs of the product are gates, int64 [rows], the same for all experts.
    outputs: torch.Tensor

    @property
    def is_linear(self) -> bool:
        """Whether it is a linear layer, which sees every token."""
        return isinstance(self.module, torch.nn.Linear | Conv1D)

    @property
    def parameter_name(self) -> str:
        """Name of the parameter in its module."""
        return self.name.rpartition(".")[2]

    @property
    def device(self) -> torch.device:
        """Device on which the product is made."""
        return running_device(self.module)

    @property
    def hidden_size(self) -> int:
        """Length d of a gate row."""
        return self.gates[0].hidden_size

    @property
    def rows(self) -> int:
        """Gate rows of one matrix."""
        return self.gates[0].rows

    def pick(self, values: torch.Tensor) -> torch.Tensor:
        """Those of a product's outputs [..., o] that are gates, [..., rows]."""
        if values.shape[-1] == len(self.outputs):
            return values
        return values.index_select(-1, self.outputs.to(values.device))


def find_sites(model: Any, layout: GateLayout | None = None) -> tuple[GateSite, ...]:
    """The gate sites of a transformers model, in the order of blocks.

    Raises:
        UnsupportedModelError: the model's parameters are not what its layout says.
    """
    by_name: dict[str, list[GateMatrix]] = {}
    for gate in loaded_gates(model, layout):
        by_name.setdefault(gate.tensor, []).append(gate)
    return tuple(_site(model, name, gates) for name, gates in by_name.items())


def mean_row_norm(sites: Sequence[GateSite]) -> float:
    """Mean L2 norm of all gate rows, the unit of strength."""
    total = 0.0
    for site in sites:
        values = stored_values(site.module, site.parameter_name)
        for gate in site.gates:
            norms = rows_in(values, gate.view).float().norm(dim=1)
            total += float(norms.double().sum())
    return total / sum(gate.rows for site in sites for gate in site.gates)


def _site(model: Any, name: str, gates: Sequence[GateMatrix]) -> GateSite:
    parameter = model.get_parameter(name)
    ordered = tuple(sorted(gates, key=lambda gate: gate.expert))
    numbers = torch.from_numpy(ordered[0].view.outputs(tuple(parameter.shape)))
    if parameter.ndim == 3 and not ordered[0].view.is_transposed:
        numbers = numbers % parameter.shape[1]
    return GateSite(name, model.get_submodule(name.rpartition(".")[0]), ordered, numbers)


@contextmanager
def watching_inputs(
    sites: Sequence[GateSite], watch: Callable[[GateSite, torch.Tensor], None]
) -> Iterator[None]:
    """Tell of what each site reads, [n, d]: the inputs of all tokens, padding included.

    Experts that are given every token (Llama 4, scaled by the router, and to almost nothing where
    it did not choose them) tell of the sum over experts.
    """

    def hook(site: GateSite, _: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        watch(site, inputs[0].detach().reshape(-1, site.hidden_size))

    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(site.module.register_forward_pre_hook(partial(hook, site)))
        yield


def by_token(inputs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Inputs [tokens, d] float32 of what a site reads; summed over experts that read them all."""
    return inputs.reshape(-1, len(tokens), inputs.shape[-1]).float().sum(0)


@contextmanager
def watching_gates(model: Any, sites: Sequence[GateSite], watch: Watch) -> Iterator[None]:
    """Tell of each product that gives gates, while it is made.

    A tensor hook on the outputs sees the gradient of a loss by the gates, and a hook that returns
    nothing leaves it alone. Of a mixture's experts each one's own tokens are told of; transformers'
    eager code for experts runs meanwhile.
    """

    def hook(
        site: GateSite, _: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> None:
        watch(site, 0, inputs[0].reshape(1, -1, site.hidden_size), output)

    with ExitStack() as stack:
        experts = [site for site in sites if not site.is_linear]
        for site in sites:
            if site.is_linear:
                stack.enter_context(site.module.register_forward_hook(partial(hook, site)))
        if experts:
            stack.enter_context(_eager_experts(model))
            stack.enter_context(_WatchedProducts(experts, watch))
        yield


@contextmanager
def _eager_experts(model: Any) -> Iterator[None]:
    before = model.get_experts_implementation()
    model.set_experts_implementation("eager")
    try:
        yield
    finally:
        model.set_experts_implementation(before)


class _WatchedProducts(TorchFunctionMode):
    """Sees products with the weights of experts, which are no linear layers of their own."""

    def __init__(self, sites: Sequence[GateSite], watch: Watch) -> None:
        super().__init__()
        self._sites, self._watch = sites, watch

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in PRODUCTS and len(args) > 1 and isinstance(args[1], torch.Tensor):
            site = self._site_of(args[1])
            if site is not None:
                self._tell(site, args[0], args[1], result)
        return result

    def _site_of(self, weight: torch.Tensor) -> GateSite | None:
        """The site whose parameter a tensor is, or is a part of; offloaded ones move each time."""
        place = weight.untyped_storage().data_ptr()
        for site in self._sites:
            parameter = site.module.get_parameter(site.parameter_name)
            if not parameter.is_meta and parameter.untyped_storage().data_ptr() == place:
                return site
        return None

    def _tell(
        self, site: GateSite, inputs: torch.Tensor, weight: torch.Tensor, outputs: torch.Tensor
    ) -> None:
        count = len(weight) if weight.ndim == 3 else 1  # all experts at once, or one of them
        first = weight.storage_offset() // site.module.get_parameter(site.parameter_name)[0].numel()
        self._watch(site, first, inputs.reshape(count, -1, site.hidden_size), outputs)
