"""What differs between two checkpoints, tensor by tensor and row by row; loads no model."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.header import StoredTensor
from modelsurgery.checkpoint.layouts import find_gate_matrices
from modelsurgery.checkpoint.rows import ROW_DTYPES, RowView, Weights, values_in, widened
from modelsurgery.errors import UnsupportedModelError
from modelsurgery.files.object_store import refuse_url
from modelsurgery.files.progress import Progress, silent

BLOCK_BYTES = 16 << 20


@dataclass(frozen=True)
class TensorDifference:
    """How a tensor differs between two checkpoints.

    Attributes:
        tensor: name of the tensor.
        kind: `rows`, or why rows cannot be compared: `only in the first`, `only in the second`,
            `shape`, `dtype`, or `bytes` (an element type without arithmetic).
        rows: numbers of the rows that differ, from 0. For a transposed gate matrix (GPT-2) these
            are neurons. Rows of a three-dimensional tensor are counted through the whole tensor.
        norms: L2 norm of the difference of each of these rows.
        row_count: number of rows in the tensor.
        relative_norm: L2 norm of the whole difference, divided by that of the first tensor.

    Example:
        >>> compare_checkpoints(checkpoint, checkpoint)
        ()
    """

    tensor: str
    kind: str
    rows: tuple[int, ...] = ()
    norms: tuple[float, ...] = ()
    row_count: int = 0
    relative_norm: float = 0.0


def compare_checkpoints(
    first: Checkpoint, second: Checkpoint, *, progress: Progress = silent
) -> tuple[TensorDifference, ...]:
    """Compare the tensors of two checkpoints row by row. Loads no model.

    Args:
        first: the base checkpoint.
        second: the checkpoint to compare with it.
        progress: receives the number of compared tensors.

    Returns:
        The tensors that differ, by name, in the order of blocks; empty if the weights are the same.

    Raises:
        CheckpointError: a file is truncated.

    Example:
        >>> copy = apply_to_copy("model", [edit], "edited")
        >>> found = compare_checkpoints(checkpoint, open_checkpoint("edited"))
        >>> sum(len(one.rows) for one in found) == copy.coverage.rows_edited
        True
    """
    for checkpoint in (first, second):
        if checkpoint.remote is not None:
            refuse_url(checkpoint.place.url or "", "comparing reads every byte; download it first")
    names = sorted({*first.tensors, *second.tensors}, key=_natural)
    transposed = _transposed(first)
    found = []
    with (
        progress("tensors", len(names)) as advance,
        Weights(first) as weights,
        Weights(second) as others,
    ):
        for name in names:
            one, other = first.tensors.get(name), second.tensors.get(name)
            if one is None or other is None:
                which = "second" if one is None else "first"
                found.append(TensorDifference(name, f"only in the {which}"))
            elif one.shape != other.shape:
                found.append(TensorDifference(name, "shape"))
            elif one.dtype != other.dtype:
                found.append(TensorDifference(name, "dtype"))
            elif not _same_bytes(first, one, second, other):
                found += _compare(weights, others, one, name in transposed)
            advance(1)
    return tuple(found)


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """What names are sorted by so that block 2 comes before block 10; 02 and 2 are two names."""
    parts = re.split(r"(\d+)", name)
    numbers = [part.lstrip("0") for part in parts[1::2]]  # compared by length first, then as text
    parts[1::2] = numbers
    return [(len(part) if at % 2 else 0, part) for at, part in enumerate(parts)], name


def _transposed(checkpoint: Checkpoint) -> set[str]:
    """Gate matrices whose neurons are columns; none in a family that is not known."""
    try:
        gates = find_gate_matrices(checkpoint)
    except UnsupportedModelError:
        return set()
    return {gate.tensor for gate in gates if gate.view.is_transposed}


def _same_bytes(
    first: Checkpoint, one: StoredTensor, second: Checkpoint, other: StoredTensor
) -> bool:
    """Whether both are the same stretch of one file (a hard link), or hold the same bytes."""
    path, other_path = first.place.path(one.file), second.place.path(other.file)
    if path.samefile(other_path) and one.start == other.start:
        return True
    with path.open("rb", buffering=0) as file, other_path.open("rb", buffering=0) as other_file:
        file.seek(one.start)
        other_file.seek(other.start)
        left = range(one.size_bytes, 0, -BLOCK_BYTES)
        sizes = (min(size, BLOCK_BYTES) for size in left)
        return all(file.read(size) == other_file.read(size) for size in sizes)


def _compare(
    weights: Weights, others: Weights, stored: StoredTensor, transposed: bool
) -> Iterator[TensorDifference]:
    if stored.dtype not in ROW_DTYPES:
        yield TensorDifference(stored.name, "bytes")
        return
    numbers: list[int] = []
    norms: list[float] = []
    base_squared, offset = 0.0, 0
    for view in _planes(stored, transposed):
        count = max(1, BLOCK_BYTES // (view.columns * view.itemsize))
        for start in range(0, view.rows, count):
            rows = np.arange(start, min(start + count, view.rows))
            one, other = weights.read(view, rows), others.read(view, rows)
            differs = (one.view(np.uint8) != other.view(np.uint8)).any(axis=1)
            wide = widened(one).astype(np.float64)
            base_squared += float(np.square(wide).sum())
            change = np.linalg.norm(wide[differs] - widened(other)[differs], axis=1)
            numbers += (offset + rows[differs]).tolist()
            norms += change.tolist()
        offset += view.rows
    squared = sum(norm * norm for norm in norms)
    relative = math.sqrt(squared / base_squared) if base_squared else math.inf
    yield TensorDifference(stored.name, "rows", tuple(numbers), tuple(norms), offset, relative)


def _planes(stored: StoredTensor, transposed: bool) -> Iterator[RowView]:
    """Matrices [rows, columns] that make up a tensor: all but the last two axes are counted off."""
    shape = (1, 1, *stored.shape)[-max(2, len(stored.shape)) :]
    *_, height, width = shape
    width //= values_in(stored.dtype)
    for plane in range(math.prod(shape[:-2])):
        offset = plane * height * width
        if transposed:
            yield RowView(stored.name, stored.dtype, width, height, offset, 1, width)
        else:
            yield RowView(stored.name, stored.dtype, height, width, offset, width, 1)
