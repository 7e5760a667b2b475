"""An edit on a loaded model, for as long as a `with` block lasts.

The model's parameters are found by the same layouts as the tensors of a file, so it does not matter
that transformers names some of them otherwise, or holds the experts of a mixture in one tensor.

`edited` gives the model other rows, offloaded ones too (`loaded_weights`). `edited_per_part`
changes no weight: several edits share one forward pass of the base weights, another one for each
part of the batch.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.pytorch_utils import Conv1D

from modelsurgery.apply.loaded_weights import (
    NewRows,
    rows_in,
    rows_replaced,
    running_device,
    stored_values,
)
from modelsurgery.checkpoint.layouts import (
    Address,
    GateLayout,
    GateMatrix,
    Shaped,
    layout_for,
    match_layout,
)
from modelsurgery.checkpoint.quantized import is_quantized
from modelsurgery.checkpoint.rows import DTYPES, ROW_DTYPES, Rows, RowView, holds, rounded
from modelsurgery.edit.changes import TensorChange, tensor_changes
from modelsurgery.edit.edit import Edit, RowUpdate, layout_of, named_as
from modelsurgery.errors import EditMismatchError, UnsupportedModelError

TORCH_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
DEQUANTIZED = "modelsurgery_dequantized"  # attribute of a transformers model

# What a part of a batch gets on top of a projection's outputs: number of the part, which outputs
# (int64 [k]), and what is added to their weights [k, d].
Addition = tuple[int, torch.Tensor, torch.Tensor]


@contextmanager
def edited(model: Any, *edits: Edit) -> Iterator[tuple[TensorChange, ...]]:
    """Apply edits to a loaded model inside a `with` block, then restore the exact weights.

    The sum is rounded to the dtype of the checkpoint if the model holds its values exactly (the
    same dtype, or float32), so the weights are those that `apply_to_copy` writes. A model loaded
    in a narrower dtype is rounded to that dtype.

    Args:
        model: a transformers model, or a `LanguageModel`.
        edits: an edit or several edits of this model; none leaves the model unchanged.

    Yields:
        The changed rows, before and after.

    Raises:
        EditMismatchError: the model's rows are not those that an edit was made for. The model is
            left unchanged.
        UnsupportedModelError: the model's parameters do not match its layout.

    Example:
        >>> batch = model.tokenize(["My neighbor is"])
        >>> with edited(model, edit, edit.scaled(0.5)):
        ...     answer = model.model.generate(**batch, max_new_tokens=5)
    """
    model = model.model if hasattr(model, "tokenizer") else model
    matrices = _gate_parameters(model, layout_of(edits)) if edits else {}
    changes = _changes(model, matrices, edits)
    by_parameter: dict[str, list[NewRows]] = defaultdict(list)
    for change in changes:
        view = matrices[change.address].view
        values = torch.from_numpy(change.after.astype(np.float32))
        by_parameter[view.tensor].append(NewRows(view, torch.from_numpy(change.rows), values))
    with ExitStack() as stack:
        for name, rows in by_parameter.items():
            stack.enter_context(rows_replaced(model, name, *rows))
        yield changes


def mark_dequantized(model: Any) -> None:
    """Note on a transformers model that its weights have the values of a GGUF file.

    Rows of such a model are compared with those that an edit was made for as rows of the file are:
    by samples where their bytes differ.
    """
    setattr(model, DEQUANTIZED, True)


def is_dequantized(model: Any) -> bool:
    """Whether a transformers model was marked so (see `mark_dequantized`)."""
    return bool(getattr(model, DEQUANTIZED, False))


@contextmanager
def edited_per_part(model: Any, parts: Sequence[Sequence[Edit]]) -> Iterator[None]:
    """Let part k of every batch pass through the model as if `parts[k]` were applied to it.

    A batch has len(parts) parts of the same number of sequences, one after the other. Since
    (W + ΔW)·x = W·x + ΔW·x, the base weights are used once for the whole batch, and the k edited
    rows of each part are added to its outputs. What comes out is what `edited` gives, up to the
    order in which sums are rounded; in a narrower dtype than f32 both terms are rounded once more.

    Args:
        model: a transformers model whose gate matrices belong to linear layers.
        parts: edits of each part; an empty one is the base model.

    Raises:
        UnsupportedModelError: a gate matrix is not that of a linear layer that sees every token,
            as in a mixture of experts.
        EditMismatchError: the model has not the rows that an edit was made for.
    """
    matrices = _gate_parameters(model, layout_of([edit for part in parts for edit in part]))
    additions: dict[Address, list[Addition]] = defaultdict(list)
    for number, edits in enumerate(parts):
        for change in _changes(model, matrices, edits):
            matrix = matrices[change.address]
            place, dtype = running_device(matrix.module), matrix.parameter.dtype
            outputs = matrix.view.outputs(tuple(matrix.parameter.shape))[change.rows]
            gained = change.after.astype(np.float32) - change.before.astype(np.float32)
            rows = torch.from_numpy(gained).to(place, dtype)
            additions[change.address].append((number, torch.from_numpy(outputs).to(place), rows))
    with ExitStack() as stack:
        for address, some in additions.items():
            module = matrices[address].module
            if not matrices[address].sees_every_token:
                raise UnsupportedModelError(
                    f"{matrices[address].view.tensor} is not the weight of a linear layer that "
                    "sees every token; use `edited` for one edit at a time"
                )
            hook = module.register_forward_hook(_adding(some, len(parts)))
            stack.callback(hook.remove)
        yield


def takes_parts(model: Any, layout: GateLayout | None = None) -> bool:
    """Whether `edited_per_part` knows all gate matrices of a model."""
    return all(one.sees_every_token for one in _gate_parameters(model, layout).values())


def _adding(additions: Sequence[Addition], parts: int) -> Callable[..., None]:
    def hook(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        hidden = inputs[0].to(output.device).unflatten(0, (parts, -1))
        whole = output.unflatten(0, (parts, -1))
        for part, outputs, rows in additions:
            whole[part].index_add_(-1, outputs, hidden[part] @ rows.T)

    return hook


@dataclass(frozen=True)
class _GateParameter:
    """A gate matrix of a loaded model."""

    module: torch.nn.Module  # what the parameter belongs to
    # The parameter that holds it; without values where they are offloaded.
    parameter: torch.nn.Parameter
    gate: GateMatrix  # where its rows are in the parameter

    @property
    def view(self) -> RowView:
        """The rows in the parameter."""
        return self.gate.view

    @property
    def sees_every_token(self) -> bool:
        """Whether it is the weight of a linear layer, and not of an expert of a mixture."""
        is_linear = isinstance(self.module, torch.nn.Linear | Conv1D)
        return is_linear and self.gate.address.expert < 0


def loaded_gates(model: Any, layout: GateLayout | None = None) -> tuple[GateMatrix, ...]:
    """Gate matrices of a loaded model, which may name and fuse them otherwise than its file.

    Raises:
        UnsupportedModelError: the model's parameters are not what its layout says.
    """
    shapes = {
        name: Shaped(tuple(one.shape), TORCH_DTYPES.get(one.dtype, str(one.dtype)))
        for name, one in model.named_parameters(remove_duplicate=False)
    }
    config = model.config.to_dict()
    where = "the loaded model"
    return match_layout(layout or layout_for(config, shapes, where), shapes, config, where)


def _gate_parameters(model: Any, layout: GateLayout | None) -> dict[Address, _GateParameter]:
    found = {}
    for gate in loaded_gates(model, layout):
        module = model.get_submodule(gate.tensor.rpartition(".")[0])
        found[gate.address] = _GateParameter(module, model.get_parameter(gate.tensor), gate)
    return found


def _changes(
    model: Any, matrices: dict[Address, _GateParameter], edits: Sequence[Edit]
) -> tuple[TensorChange, ...]:
    # The experts of a mixture come one after the other, and may be in one tensor on disk.
    values = lru_cache(maxsize=1)(partial(stored_values, model))

    def read(update: RowUpdate, rows: NDArray[np.int64]) -> Rows:
        gate = matrices.get(update.address)
        found = None if gate is None else (gate.view.rows, gate.view.columns)
        if gate is None or found != update.shape:
            held = "no such parameter" if found is None else f"shape {list(found)}"
            raise EditMismatchError(
                f"the edit is for {update.tensor} of shape {list(update.shape)}, the model has "
                f"{held}; use the model that the edit was made from"
            )
        matrix = rows_in(values(gate.view.tensor), gate.view)
        return _as_stored(matrix[torch.from_numpy(rows).to(matrix.device)], update.dtype)

    named = named_as(edits, (one.gate for one in matrices.values()))
    return tuple(tensor_changes(named, read, is_dequantized=is_dequantized(model)))


def _as_stored(chosen: torch.Tensor, dtype: str) -> Rows:
    """Rows of the model in the checkpoint's dtype, if that holds their values."""
    values: NDArray[np.float32] = chosen.float().cpu().numpy()
    held, stored = DTYPES[TORCH_DTYPES[chosen.dtype]], ROW_DTYPES[dtype]
    if not is_quantized(stored) and holds(held, stored):
        narrow = rounded(values, stored)
        if np.array_equal(narrow.astype(np.float32), values):
            return narrow
    return rounded(values, held)
