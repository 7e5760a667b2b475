"""Rows of a matrix inside a stored tensor: where they are, reading, rounding, patching.

A matrix may be a whole tensor, a part of a fused one, one expert of a three-dimensional one, or
transposed. All of these are the same thing: equally spaced elements of the file (`RowView`). In a
quantized tensor an element is a block of values, in rows and in the arrays that hold them.
"""

import itertools
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.gguf_header import BLOCK_VALUES
from modelsurgery.checkpoint.header import StoredTensor
from modelsurgery.checkpoint.local_file import LocalFile
from modelsurgery.checkpoint.quantized import QUANTIZED_DTYPES, dequantized, is_quantized
from modelsurgery.checkpoint.remote import RemoteFile

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# All element types whose rows can be edited.
ROW_DTYPES = {**DTYPES, **QUANTIZED_DTYPES}
# How much of a transposed matrix is in memory at a time.
CHUNK_BYTES = 32 << 20

Rows = NDArray[Any]
WeightFile = LocalFile | RemoteFile


@dataclass(frozen=True)
class RowView:
    """Where the rows of a matrix [rows, columns] are inside a stored tensor.

    Element [i, j] is element `offset + i·row_stride + j·column_stride` of the tensor.
    """

    tensor: str  # name of the tensor in the checkpoint
    dtype: str  # safetensors' or GGUF's name of its element type, one of `ROW_DTYPES`
    rows: int  # number of rows
    columns: int  # elements in a row
    offset: int  # in elements
    row_stride: int  # in elements
    column_stride: int  # in elements; 1 unless the matrix is stored transposed

    @property
    def is_transposed(self) -> bool:
        """Whether the elements of a row are apart in the file."""
        return self.column_stride != 1

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return ROW_DTYPES[self.dtype].itemsize

    @property
    def width(self) -> int:
        """Length of a row, in values."""
        return self.columns * values_in(self.dtype)

    def fits(self, stored: StoredTensor) -> bool:
        """Whether every element is inside a stored tensor of the same type, and no two are one."""
        row_span = (self.columns - 1) * self.column_stride
        column_span = (self.rows - 1) * self.row_stride
        smallest = min(self.rows, self.columns, self.row_stride, self.column_stride)
        return (
            self.dtype == stored.dtype
            and smallest > 0
            and self.offset >= 0
            and (self.row_stride > row_span or self.column_stride > column_span)
            and self.stop * self.itemsize <= stored.size_bytes
        )

    def outputs(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Which output of the layer each row gives, int64 [rows], for a tensor of a shape."""
        firsts = self.offset + np.arange(self.rows) * self.row_stride  # elements [row, 0]
        width = shape[-1] // values_in(self.dtype)
        return firsts % width if self.is_transposed else firsts // width

    @property
    def stop(self) -> int:
        """One past the last element, as `offset` counts."""
        last = (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride
        return self.offset + last + 1


def holds(wide: np.dtype[Any], narrow: np.dtype[Any]) -> bool:
    """Whether a float type holds every value of another; f16 and bf16 don't hold each other's."""
    return wide in (narrow, ROW_DTYPES["F32"])


def values_in(dtype: str) -> int:
    """Values in an element of a type: one, or those of a quantized block."""
    return BLOCK_VALUES.get(dtype, 1)


def widened(rows: Rows, *, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """The same values in f32, exactly; in the first rows of `out` if there is one."""
    if is_quantized(rows.dtype):
        values = dequantized(rows)
        if out is None:
            return values
        out[: len(rows)] = values
        return out[: len(rows)]
    wide = np.empty(rows.shape, np.float32) if out is None else out[: len(rows)]
    if rows.dtype == ml_dtypes.bfloat16:  # much faster than the library's own conversion
        bits = wide.view(np.uint32)
        bits[...] = rows.view(np.uint16)
        np.left_shift(bits, 16, out=bits)
    else:
        wide[...] = rows
    return wide


def rounded(values: NDArray[np.float32], dtype: np.dtype[Any]) -> Rows:
    """Values rounded once to a dtype, ties to even; infinite where it cannot hold them."""
    with np.errstate(over="ignore"):
        return values.astype(dtype)


class Weights:
    """The weight files of a checkpoint, opened when they are needed, for reading rows or patching.

    A file stays open, so that it can be renamed while it is worked on. Files for patching are never
    opened through a symbolic link.
    """

    def __init__(self, checkpoint: Checkpoint, *, writable: bool = False) -> None:
        self.checkpoint = checkpoint
        self._flags = os.O_RDWR | os.O_NOFOLLOW if writable else os.O_RDONLY
        self._files: dict[str, WeightFile] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "Weights":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def read(self, view: RowView, rows: NDArray[np.int64], *, out: Rows | None = None) -> Rows:
        """Rows of a matrix by their numbers (ascending), [k, columns] in the stored dtype.

        They are put into the first k rows of `out`, or into new memory.

        Raises:
            CheckpointError: the file ends early.
        """
        stored, file = self._opened(view)
        if out is None:
            out = np.empty((len(rows), view.columns), dtype=ROW_DTYPES[view.dtype])
        chosen = out[: len(rows)]
        if view.is_transposed:
            for columns, _, lines in _lines(file, stored, view, rows):
                chosen[:, columns] = lines[:, (rows - rows[0]) * view.row_stride].T
            return chosen
        target = chosen.view(np.uint8).reshape(-1).data
        file.read_into((target[part], place) for part, place in _stretches(stored, view, rows))
        return chosen

    def write(self, view: RowView, rows: NDArray[np.int64], values: Rows) -> None:
        """Put `values` [k, columns], in the stored dtype, over rows; other bytes stay."""
        stored, file = self._opened(view)
        if view.is_transposed:
            for columns, places, lines in _lines(file, stored, view, rows):
                lines[:, (rows - rows[0]) * view.row_stride] = values[:, columns].T
                for line, place in zip(lines, places, strict=True):
                    file.write(line.tobytes(), place)
            return
        content = np.ascontiguousarray(values).view(np.uint8).reshape(-1).data
        for part, place in _stretches(stored, view, rows):
            file.write(content[part], place)

    def sync(self) -> None:
        """Flush all files to the disk."""
        for file in self._files.values():
            file.sync()

    def _opened(self, view: RowView) -> tuple[StoredTensor, WeightFile]:
        """The tensor of a matrix and its file, opened now if it was not."""
        stored, remote = self.checkpoint.tensors[view.tensor], self.checkpoint.remote
        name = stored.file
        with self._lock:
            if name not in self._files:
                self._files[name] = (
                    LocalFile(self.checkpoint.place.path(name), self._flags)
                    if remote is None
                    else RemoteFile(remote, name)
                )
            return stored, self._files[name]


def _lines(
    file: WeightFile, stored: StoredTensor, view: RowView, rows: NDArray[np.int64]
) -> Iterator[tuple[slice, list[int], Rows]]:
    """Of a transposed view: columns, where their lines begin in the file, and the stored elements.

    Yields lines [columns, span] that begin at the smallest of `rows` and end at the largest.
    """
    if not len(rows):
        return
    span = int(rows[-1] - rows[0]) * view.row_stride + 1
    first_element = view.offset + int(rows[0]) * view.row_stride
    count = max(1, CHUNK_BYTES // (span * view.itemsize))
    for column in range(0, view.columns, count):
        stop = min(column + count, view.columns)
        lines = np.empty((stop - column, span), dtype=ROW_DTYPES[view.dtype])
        firsts = first_element + np.arange(column, stop) * view.column_stride
        places = (stored.start + firsts * view.itemsize).tolist()
        targets = (line.view(np.uint8).data for line in lines)
        file.read_into(zip(targets, places, strict=True))
        yield slice(column, stop), places, lines


def stretches(
    stored: StoredTensor, view: RowView, rows: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """First byte, and one past the last, of the stretches of the file where rows are.

    Rows of a transposed matrix are everywhere in it: they have one stretch, the whole matrix.
    """
    if view.is_transposed:
        first, last = view.offset * view.itemsize, view.stop * view.itemsize
        return [(stored.start + first, stored.start + last)]
    return [
        (place, place + part.stop - part.start) for part, place in _stretches(stored, view, rows)
    ]


def _stretches(
    stored: StoredTensor, view: RowView, rows: NDArray[np.int64]
) -> Iterator[tuple[slice, int]]:
    """Which bytes of the content of `rows` are one stretch of the file, and its first byte."""
    if not len(rows):
        return
    if view.row_stride == view.columns:  # neighbors touch
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    else:
        breaks = np.arange(1, len(rows))
    begin, row_bytes = stored.start + view.offset * view.itemsize, view.columns * view.itemsize
    for first, last in itertools.pairwise([0, *breaks.tolist(), len(rows)]):
        place = begin + int(rows[first]) * view.row_stride * view.itemsize
        yield slice(first * row_bytes, last * row_bytes), place
