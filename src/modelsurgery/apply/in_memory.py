"""An edit on a loaded model, for as long as a `with` block lasts.

The model's parameters are found by the same layouts as the tensors of a file, so it does not matter
that transformers names some of them otherwise, or holds the experts of a mixture in one tensor.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modelsurgery.edit import Edit, RowUpdate, TensorChange, layout_of, tensor_changes
from modelsurgery.errors import EditMismatchError
from modelsurgery.layouts import Address, GateLayout, Shaped, layout_for, match_layout
from modelsurgery.rows import DTYPES, Rows, RowView, rounded

TORCH_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


@contextmanager
def edited(model: Any, *edits: Edit) -> Iterator[tuple[TensorChange, ...]]:
    """Apply edits to a model inside a `with` block and give back exactly what was there before.

    The sum is rounded to the dtype of the checkpoint where the model holds its values exactly
    (the same dtype, or f32), so the model has the very weights that `apply_to_copy` writes.
    A model loaded in a narrower dtype is rounded to that one.

    Args:
        model: a transformers model.
        edits: edits of this model; none leaves it alone.

    Yields:
        The rows that changed, before and after.

    Raises:
        EditMismatchError: the model has not the rows that an edit was made for. The model is
            left as it was.
        UnsupportedModelError: the model's parameters are not what its layout says.

    Example:
        >>> with edited(model.model, edit):  # doctest: +SKIP
        ...     model.model.generate(**inputs)
    """
    matrices = _gate_parameters(model, layout_of(edits)) if edits else {}
    changes = tuple(tensor_changes(edits, lambda update, rows: _read(matrices, update, rows)))
    places = [
        (matrices[change.address], torch.from_numpy(change.rows).to(_device(matrices, change)))
        for change in changes
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


def _gate_parameters(model: Any, layout: GateLayout | None) -> dict[Address, torch.Tensor]:
    """Gate matrices [rows, d] of a loaded model, as views into its parameters."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    shapes = {
        name: Shaped(tuple(one.shape), TORCH_DTYPES.get(one.dtype, str(one.dtype)))
        for name, one in parameters.items()
    }
    config = model.config.to_dict()
    where = "the loaded model"
    gates = match_layout(layout or layout_for(config, shapes, where), shapes, config, where)
    return {gate.address: _view(parameters[gate.tensor].data, gate.view) for gate in gates}


def _view(parameter: torch.Tensor, view: RowView) -> torch.Tensor:
    if parameter.is_meta:
        raise EditMismatchError(
            f"{view.tensor} is not in memory but offloaded; load the model without offloading, or "
            "edit the checkpoint with `surgery apply`"
        )
    offset = parameter.storage_offset() + view.offset
    strides = (view.row_stride, view.column_stride)
    return parameter.as_strided((view.rows, view.columns), strides, offset)


def _device(matrices: dict[Address, torch.Tensor], change: TensorChange) -> torch.device:
    return matrices[change.address].device


def _read(
    matrices: dict[Address, torch.Tensor], update: RowUpdate, rows: NDArray[np.int64]
) -> Rows:
    matrix = matrices.get(update.address)
    if matrix is None or tuple(matrix.shape) != update.shape:
        found = "no such parameter" if matrix is None else f"shape {list(matrix.shape)}"
        raise EditMismatchError(
            f"the edit is for {update.tensor} of shape {list(update.shape)}, "
            f"the model has {found}; give the model it was made from"
        )
    chosen = matrix[torch.from_numpy(rows).to(matrix.device)]
    values: NDArray[np.float32] = chosen.float().cpu().numpy()
    held, stored = DTYPES[TORCH_DTYPES[chosen.dtype]], DTYPES[update.dtype]
    if np.promote_types(held, stored) == held:
        narrow = rounded(values, stored)
        if np.array_equal(narrow.astype(np.float32), values):
            return narrow
    return rounded(values, held)
