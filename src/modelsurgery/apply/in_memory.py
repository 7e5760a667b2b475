"""An edit on a loaded model, for as long as a `with` block lasts.

The model's parameters are found by the same layouts as the tensors of a file, so it does not matter
that transformers names some of them otherwise, or holds the experts of a mixture in one tensor.

`edited` writes rows into the model. `edited_per_part` writes nothing: several edits share one
forward pass of the base weights, another one for each part of the batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.pytorch_utils import Conv1D

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
    changes = _changes(matrices, edits, is_dequantized(model))
    places = [
        (matrix, torch.from_numpy(change.rows).to(matrix.device))
        for change in changes
        for matrix in [matrices[change.address].rows]
    ]
    kept = [matrix[rows] for matrix, rows in places]
    try:
        for change, (matrix, rows) in zip(changes, places, strict=True):
            values = torch.from_numpy(change.after.astype(np.float32))
            matrix[rows] = values.to(device=matrix.device, dtype=matrix.dtype)
        yield changes
    finally:
        for values, (matrix, rows) in zip(kept, places, strict=True):
            matrix[rows] = values


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
    modules = _projections(model)
    additions: dict[Address, list[_Addition]] = {}
    for number, edits in enumerate(parts):
        for change in _changes(matrices, edits, is_dequantized(model)):
            matrix = matrices[change.address]
            rows = torch.from_numpy(change.after.astype(np.float32))
            before = torch.from_numpy(change.before.astype(np.float32))
            additions.setdefault(change.address, []).append(
                _Addition(
                    number,
                    torch.from_numpy(matrix.outputs[change.rows]).to(matrix.rows.device),
                    (rows - before).to(matrix.rows.device, matrix.rows.dtype),
                )
            )
    with ExitStack() as stack:
        for address, some in additions.items():
            module = modules.get(id(matrices[address].parameter))
            if module is None or address.expert >= 0:
                raise UnsupportedModelError(
                    f"{matrices[address].name} is not the weight of a linear layer that sees "
                    "every token; use `edited` for one edit at a time"
                )
            hook = module.register_forward_hook(_adding(some, len(parts)))
            stack.callback(hook.remove)
        yield


def takes_parts(model: Any, layout: GateLayout | None = None) -> bool:
    """Whether `edited_per_part` knows all gate matrices of a model."""
    modules = _projections(model)
    gates = _gate_parameters(model, layout)
    return all(id(one.parameter) in modules and at.expert < 0 for at, one in gates.items())


def _projections(model: Any) -> dict[int, torch.nn.Module]:
    """Linear layers by the identity of their weights."""
    return {
        id(module.weight): module
        for module in model.modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
    }


@dataclass(frozen=True)
class _Addition:
    """What a part of a batch gets on top of a projection's outputs.

    Attributes:
        part: number of the part.
        outputs: which outputs of the projection, int64 [k].
        rows: what is added to their weights, [k, d].
    """

    part: int
    outputs: torch.Tensor
    rows: torch.Tensor


def _adding(additions: Sequence[_Addition], parts: int) -> Callable[..., None]:
    def hook(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        hidden, whole = inputs[0].unflatten(0, (parts, -1)), output.unflatten(0, (parts, -1))
        for one in additions:
            added = hidden[one.part] @ one.rows.T
            whole[one.part].index_add_(-1, one.outputs, added)

    return hook


@dataclass(frozen=True)
class _GateParameter:
    """A gate matrix of a loaded model.

    Attributes:
        name: of the parameter.
        parameter: the parameter that holds it.
        rows: [rows, d], a view into the parameter.
        outputs: which output of the projection each row gives, int64 [rows].
    """

    name: str
    parameter: torch.nn.Parameter
    rows: torch.Tensor
    outputs: NDArray[np.int64]


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
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {
        gate.address: _gate_parameter(parameters[gate.tensor], gate.view)
        for gate in loaded_gates(model, layout)
    }


def _gate_parameter(parameter: torch.nn.Parameter, view: RowView) -> _GateParameter:
    if parameter.is_meta:
        raise EditMismatchError(
            f"{view.tensor} is offloaded and not in memory; load the model without offloading, or "
            "edit the checkpoint with `surgery apply`"
        )
    rows, outputs = rows_in(parameter, view), view.outputs(tuple(parameter.shape))
    return _GateParameter(view.tensor, parameter, rows, outputs)


def rows_in(parameter: torch.nn.Parameter, view: RowView) -> torch.Tensor:
    """The rows of a matrix [rows, d], a view into the parameter that holds it."""
    return parameter.data.as_strided(
        (view.rows, view.columns),
        (view.row_stride, view.column_stride),
        parameter.data.storage_offset() + view.offset,
    )


def _changes(
    matrices: dict[Address, _GateParameter], edits: Sequence[Edit], is_dequantized: bool
) -> tuple[TensorChange, ...]:
    def read(update: RowUpdate, rows: NDArray[np.int64]) -> Rows:
        return _read(matrices, update, rows)

    named = named_as(edits, {address: one.name for address, one in matrices.items()})
    return tuple(tensor_changes(named, read, is_dequantized=is_dequantized))


def _read(
    matrices: dict[Address, _GateParameter], update: RowUpdate, rows: NDArray[np.int64]
) -> Rows:
    gate = matrices.get(update.address)
    matrix = None if gate is None else gate.rows
    if matrix is None or tuple(matrix.shape) != update.shape:
        found = "no such parameter" if matrix is None else f"shape {list(matrix.shape)}"
        raise EditMismatchError(
            f"the edit is for {update.tensor} of shape {list(update.shape)}, the model has "
            f"{found}; use the model that the edit was made from"
        )
    chosen = matrix[torch.from_numpy(rows).to(matrix.device)]
    values: NDArray[np.float32] = chosen.float().cpu().numpy()
    held, stored = DTYPES[TORCH_DTYPES[chosen.dtype]], ROW_DTYPES[update.dtype]
    if not is_quantized(stored) and holds(held, stored):
        narrow = rounded(values, stored)
        if np.array_equal(narrow.astype(np.float32), values):
            return narrow
    return rounded(values, held)
