"""What an edit touched, of how much: reported by everything that applies one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.layouts import GateMatrix
from modelsurgery.edit.changes import TensorChange
from modelsurgery.errors import NothingChangedError


@dataclass(frozen=True)
class Coverage:
    """How much of a model an edit changed."""

    tensors_found: int  # number of gate matrices in the model
    tensors_edited: int  # number of matrices with at least one changed byte
    rows_edited: int  # number of rows with at least one changed byte
    rows_found: int  # number of gate rows in the model
    bytes_changed: int  # bytes that differ from the base model, in the stored dtype
    bytes_total: int  # bytes of all weights of the model


def measure_coverage(
    changes: Iterable[TensorChange], checkpoint: Checkpoint, gates: Sequence[GateMatrix]
) -> Coverage:
    """Count what changed, one matrix at a time, in a checkpoint with those gate matrices.

    Raises:
        NothingChangedError: no byte differs.
    """
    matrices, rows, size = 0, 0, 0
    for change in changes:
        moved = change.bytes_moved
        matrices += bool(moved.any())
        rows += int(np.count_nonzero(moved))
        size += int(moved.sum())
    if size == 0:
        raise NothingChangedError(
            "the edit changes no byte: its strength is 0, it has no rows, or it is too small for "
            "the stored dtype; use a larger strength"
        )
    return Coverage(
        tensors_found=len(gates),
        tensors_edited=matrices,
        rows_edited=rows,
        rows_found=sum(gate.rows for gate in gates),
        bytes_changed=size,
        bytes_total=checkpoint.size_bytes,
    )
