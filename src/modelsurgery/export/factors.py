"""Edits as low-rank factors of whole weights: what every adapter format stores.

For each weight that is touched ΔW = coefficients · directions, with one column of coefficients
for each direction. Rows that no edit touches have coefficient 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.layouts import (
    Address,
    GateLayout,
    GateMatrix,
    choose_layout,
    find_gate_matrices,
)
from modelsurgery.checkpoint.rows import ROW_DTYPES, Weights, rounded
from modelsurgery.edit.changes import check_bases, tensor_changes
from modelsurgery.edit.edit import Edit, ReadRows, layout_of, named_as, rows_reader
from modelsurgery.errors import (
    EditMismatchError,
    NothingChangedError,
    RecipeError,
    UnsupportedModelError,
)

# A direction [d] and its coefficients, one for each row of a gate matrix [rows].
Column = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Factors:
    """What all edits together add to one linear layer's weight, ΔW = coefficients · directions."""

    tensor: str  # name of the stored tensor
    module: str  # name of the layer in transformers' model for generation
    address: Address  # which gate matrix of the model it is, or is a part of
    is_transposed: bool  # whether the file holds it as [in, out] (GPT-2)
    # [r, in] float32; the same r for all weights, rows of zeros where one has fewer.
    directions: NDArray[np.float32]
    coefficients: NDArray[np.float32]  # [out, r] float32

    @property
    def rank(self) -> int:
        """Number r of stacked directions."""
        return len(self.directions)


def low_rank_factors(checkpoint: Checkpoint, edits: Sequence[Edit]) -> tuple[Factors, ...]:
    """Factors of every weight that edits touch, in block order.

    Coefficients of one direction are summed in f32, whatever the number of edits that share it.

    Args:
        checkpoint: the model that the edits were made from; its headers and the edited rows are
            read, to see that it is the right one. Rows of a GGUF file in a type that cannot be
            read are not compared (`unread_types`).
        edits: edits of this model.

    Raises:
        EditMismatchError: the checkpoint has not the rows that an edit was made for.
        NothingChangedError: nothing is left to add.
        RecipeError: the edited rows overflow the stored dtype.
        UnsupportedModelError: an edited matrix is not the weight of a linear layer: an expert.
    """
    layout = layout_of(edits) or choose_layout(checkpoint)
    gates = find_gate_matrices(_with_known_types(checkpoint), layout)
    named = named_as(edits, gates)
    with Weights(checkpoint) as weights:
        changed = _changed(named, gates, rows_reader(weights, gates), checkpoint)
    columns = {gate.address: _columns(gate, edits) for gate in gates if gate.address in changed}
    rank = max((len(some) for some in columns.values()), default=0)
    if rank == 0:
        raise NothingChangedError(
            "the edits add up to no change; use another edit or a larger strength"
        )
    return tuple(
        _factors(checkpoint, layout, gate, columns[gate.address], rank)
        for gate in gates
        if columns.get(gate.address)
    )


def refuse_gguf(checkpoint: Checkpoint, what: str) -> None:
    """Refuse a GGUF file where names of modules are needed, which are those of a directory.

    Raises:
        UnsupportedModelError: the checkpoint is a GGUF file.
    """
    if checkpoint.place.is_gguf:
        raise UnsupportedModelError(
            f"{checkpoint.place}: {what} is made from the model's directory, which the edit fits "
            "too; give that, or use --to gguf or --to ollama"
        )


def unread_types(checkpoint: Checkpoint, factors: Sequence[Factors]) -> tuple[str, ...]:
    """Types whose rows cannot be read, and so were not compared, of the weights that change."""
    types = {checkpoint.tensors[one.tensor].dtype for one in factors}
    return tuple(sorted(types - ROW_DTYPES.keys()))


def _with_known_types(checkpoint: Checkpoint) -> Checkpoint:
    """The same names and shapes, which an adapter is made of, without types that are refused."""
    if not checkpoint.place.is_gguf:
        return checkpoint
    tensors = {
        name: one if one.dtype in ROW_DTYPES else replace(one, dtype="F32")
        for name, one in checkpoint.tensors.items()
    }
    return replace(checkpoint, tensors=tensors)


def _changed(
    edits: Sequence[Edit], gates: Sequence[GateMatrix], read: ReadRows, checkpoint: Checkpoint
) -> set[Address]:
    """Matrices in which something changes."""
    if checkpoint.place.is_gguf:  # no row is quantized again for an adapter
        shapes = {
            gate.address: (gate.rows, gate.hidden_size)
            for gate in gates
            if checkpoint.tensors[gate.tensor].dtype not in ROW_DTYPES
        }
        for edit in edits:
            apart = [one for one in edit.updates if one.address not in shapes]
            check_bases([replace(edit, updates=tuple(apart))], read)
            for one in edit.updates:
                if shapes.get(one.address, one.shape) != one.shape:
                    raise EditMismatchError(
                        f"{checkpoint.place}: the edit is for {one.tensor} {list(one.shape)}, "
                        f"found {list(shapes[one.address])}; use the model that the edit was made "
                        "from"
                    )
        return {update.address for edit in edits for update in edit.updates}
    changes = tensor_changes(edits, read, is_dequantized=checkpoint.is_dequantized)
    return {change.address for change in changes}


def _columns(gate: GateMatrix, edits: Sequence[Edit]) -> list[Column]:
    """Directions that differ, in an order that does not depend on that of the edits."""
    found: dict[bytes, Column] = {}
    for update in (update for edit in edits for update in edit.updates):
        if update.address == gate.address:
            fresh = update.direction, np.zeros(gate.rows, np.float32)
            _, coefficients = found.setdefault(update.direction.tobytes(), fresh)
            coefficients[update.rows] += update.coefficients
    return [found[content] for content in sorted(found) if found[content][1].any()]


def _factors(
    checkpoint: Checkpoint,
    layout: GateLayout,
    gate: GateMatrix,
    columns: Sequence[Column],
    rank: int,
) -> Factors:
    stored = checkpoint.tensors[gate.tensor]
    if gate.address.expert >= 0 or len(stored.shape) != 2 or not gate.tensor.endswith(".weight"):
        raise UnsupportedModelError(
            f"{gate.tensor} is an expert of a mixture, and adapters add to linear layers only; "
            "use `surgery apply` for an edited checkpoint"
        )
    outputs, inputs = stored.shape[::-1] if gate.view.is_transposed else stored.shape
    places = gate.view.outputs(stored.shape)
    directions = np.zeros((rank, inputs), np.float32)
    coefficients = np.zeros((outputs, rank), np.float32)
    for number, column in enumerate(columns):
        directions[number], coefficients[places, number] = column
    return Factors(
        gate.tensor,
        layout.loaded_name(gate.tensor, gate.block).removesuffix(".weight"),
        gate.address,
        gate.view.is_transposed,
        directions,
        coefficients,
    )


def full_or_half(dtype: str) -> np.dtype[Any]:
    """The dtype of an adapter whose reader knows no bfloat16.

    Raises:
        RecipeError: it is neither `float32` nor `float16`.
    """
    if dtype not in ("float32", "float16"):
        raise RecipeError(f"dtype {dtype!r}; expected float32 or float16")
    return np.dtype(dtype)


def narrowed(values: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Factors in the dtype of an adapter, contiguous.

    Raises:
        RecipeError: a value overflows the dtype.
    """
    result = np.ascontiguousarray(rounded(values, dtype))
    if not np.isfinite(result.astype(np.float32)).all():
        raise RecipeError(f"a coefficient or direction overflows {dtype}; use float32")
    return result
