"""An edit on a loaded model, for as long as a `with` block lasts."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from modelsurgery.checkpoint import DTYPES
from modelsurgery.edit import Edit, RowUpdate, TensorChange, tensor_changes
from modelsurgery.errors import EditMismatchError


@contextmanager
def edited(model: torch.nn.Module, *edits: Edit) -> Iterator[tuple[TensorChange, ...]]:
    """Apply edits to a model inside a `with` block and give back exactly what was there before.

    The sum is rounded to the dtype of the checkpoint where the model holds its values exactly
    (the same dtype, or f32), so the model has the very weights that `apply_to_copy` writes.
    A model loaded in a narrower dtype is rounded to that one.

    Args:
        model: a transformers model with the parameter names of the checkpoint.
        edits: edits of this model; none leaves it alone.

    Yields:
        The rows that changed, before and after.

    Raises:
        EditMismatchError: the model has not the rows that an edit was made for. The model is
            left as it was.

    Example:
        >>> with edited(model.model, edit):  # doctest: +SKIP
        ...     model.model.generate(**inputs)
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    changes = tuple(tensor_changes(edits, lambda update, rows: _rounded(parameters, update, rows)))
    kept = [parameters[change.tensor].data[_rows(parameters, change)] for change in changes]
    try:
        for change in changes:
            parameter = parameters[change.tensor]
            parameter.data[_rows(parameters, change)] = change.after.to(parameter.dtype)
        yield changes
    finally:
        for change, rows in zip(changes, kept, strict=True):
            parameters[change.tensor].data[_rows(parameters, change)] = rows


def _rows(parameters: dict[str, torch.nn.Parameter], change: TensorChange) -> torch.Tensor:
    return change.rows.to(parameters[change.tensor].device)


def _rounded(
    parameters: dict[str, torch.nn.Parameter], update: RowUpdate, rows: torch.Tensor
) -> torch.Tensor:
    parameter = parameters.get(update.tensor)
    if parameter is None or tuple(parameter.shape) != update.shape:
        found = "no such parameter" if parameter is None else f"shape {list(parameter.shape)}"
        raise EditMismatchError(
            f"the edit is for {update.tensor} of shape {list(update.shape)}, "
            f"the model has {found}; give the model it was made from"
        )
    values = parameter.data[rows.to(parameter.device)]
    stored = DTYPES[update.dtype]
    is_wider = torch.promote_types(values.dtype, stored) == values.dtype
    exact = is_wider and values.to(stored).to(values.dtype).equal(values)
    return values.to(stored) if exact else values
