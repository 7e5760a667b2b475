"""Where the neurons of gate rows are in a loaded model: what reads, what is active, what writes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.pytorch_utils import Conv1D

from modelsurgery.apply.in_memory import loaded_gates
from modelsurgery.apply.loaded_weights import stored_values
from modelsurgery.checkpoint.layouts import Address, GateMatrix
from modelsurgery.model.language_model import LanguageModel


@dataclass(frozen=True)
class Neurons:
    """The neurons of one gate matrix in a loaded model."""

    # The linear layer whose outputs are the gate pre-activations; None for experts, which don't see
    # every token, or are no linear layers.
    projection: torch.nn.Module | None
    outputs: NDArray[np.int64]  # which output of the projection belongs to each row, int64 [rows]
    # The linear layer that reads the activations; None if there is none of that shape, or one too
    # many.
    down: torch.nn.Module | None
    # Reads what each neuron adds to the MLP's output, [rows, d]; None like `down`.
    writes: Callable[[], torch.Tensor] | None


def find_neurons(model: LanguageModel, addresses: Iterable[Address]) -> dict[Address, Neurons]:
    """The neurons of gate matrices.

    Raises:
        UnsupportedModelError: the model's parameters are not what its layout says.
    """
    gates = {gate.address: gate for gate in loaded_gates(model.model, model.layout)}
    return {address: _neurons(model.model, gates[address]) for address in addresses}


def _neurons(model: Any, gate: GateMatrix) -> Neurons:
    parameter = model.get_parameter(gate.tensor)
    outputs = gate.view.outputs(tuple(parameter.shape))
    owner = model.get_submodule(gate.tensor.rpartition(".")[0])
    if not isinstance(owner, torch.nn.Linear | Conv1D):
        return Neurons(None, outputs, None, _expert_writes(owner, gate))
    around = model.get_submodule(gate.tensor.removesuffix(".weight").rpartition(".")[0])
    found = [
        module
        for module in around.children()
        if module is not owner and _sizes(module) == (gate.rows, gate.hidden_size)
    ]
    down = found[0] if len(found) == 1 else None
    return Neurons(
        owner if gate.expert < 0 else None,
        outputs,
        down if gate.expert < 0 else None,
        None if down is None else partial(_by_input, down),
    )


def _sizes(module: torch.nn.Module) -> tuple[int, int] | None:
    """How many values a linear layer takes and gives."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    if isinstance(module, torch.nn.Linear):
        return module.in_features, module.out_features
    return None


def _by_input(module: torch.nn.Module) -> torch.Tensor:
    """A linear layer's weights by input, [in, out]."""
    weight = stored_values(module, "weight")
    return weight if isinstance(module, Conv1D) else weight.T


def _expert_writes(owner: torch.nn.Module, gate: GateMatrix) -> Callable[[], torch.Tensor] | None:
    """Reads what the neurons of an expert write, where one tensor holds all experts."""
    rows, width = gate.rows, gate.hidden_size
    found = [
        name
        for name, one in owner.named_parameters(recurse=False)
        if one.ndim == 3 and rows != width and sorted(one.shape[1:]) == sorted((rows, width))
    ]
    if len(found) != 1 or gate.expert < 0:
        return None

    def read() -> torch.Tensor:
        values = stored_values(owner, found[0])[gate.expert]
        return values if len(values) == rows else values.T

    return read
