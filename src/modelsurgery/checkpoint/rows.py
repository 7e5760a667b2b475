"""Rows of a matrix inside a stored tensor: where they are, reading, rounding, patching.

A matrix may be a whole tensor, a part of a fused one, one expert of a three-dimensional one, or
transposed. All of these are the same thing: equally spaced elements of the file (`RowView`). In a
quantized tensor an element is a block of values, in rows and in the arrays that hold them.
"""

import itertools
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.gguf_header import BLOCK_VALUES
from modelsurgery.checkpoint.header import StoredTensor
from modelsurgery.checkpoint.quantized import (
    QUANTIZED_DTYPES,
    dequantized,
    is_quantized,
)
from modelsurgery.errors import CheckpointError

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


@dataclass(frozen=True)
class RowView:
    """Where the rows of a matrix [rows, columns] are inside a stored tensor.

    Element [i, j] is element `offset + i·row_stride + j·column_stride` of the tensor.

    Attributes:
        tensor: name of the tensor in the checkpoint.
        dtype: safetensors' or GGUF's name of its element type, one of `ROW_DTYPES`.
        rows: number of rows.
        columns: elements in a row.
        offset: in elements.
        row_stride: in elements.
        column_stride: in elements; 1 unless the matrix is stored transposed.
    """

    tensor: str
    dtype: str
    rows: int
    columns: int
    offset: int
    row_stride: int
    column_stride: int

    @property
    def is_transposed(self) -> bool:
        """Whether the elements of a row are apart in the file."""
        return self.column_stride != 1

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return ROW_DTYPES[self.dtype].itemsize

    @property
    def values(self) -> int:
        """Values in an element."""
        return values_in(self.dtype)

    @property
    def width(self) -> int:
        """Length of a row, in values."""
        return self.columns * self.values

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
        width = shape[-1] // self.values
        return firsts % width if self.is_transposed else firsts // width

    @property
    def stop(self) -> int:
        """One past the last element, as `offset` counts."""
        last = (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride
        return self.offset + last + 1


def read_rows(checkpoint: Checkpoint, view: RowView, start: int, stop: int) -> Rows:
    """Rows `start:stop` of a matrix, [stop - start, columns] in the stored dtype.

    Raises:
        CheckpointError: the file ends early.
    """
    with Weights(checkpoint) as weights:
        return weights.read(view, np.arange(start, stop))


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

    A file stays open, so that it can be renamed while it is worked on.
    """

    def __init__(self, checkpoint: Checkpoint, *, writable: bool = False) -> None:
        """Take the tensors of `checkpoint`; no file is opened yet.

        Args:
            checkpoint: where the tensors are.
            writable: open files for patching, and never through a symbolic link.
        """
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

        Args:
            view: the matrix.
            rows: [k] int64.
            out: where to put them, at least k rows; None takes new memory.

        Raises:
            CheckpointError: the file ends early.
        """
        stored = self.checkpoint.tensors[view.tensor]
        return self.open(stored.file).read(stored, view, rows, out=out)

    def write(self, view: RowView, rows: NDArray[np.int64], values: Rows) -> None:
        """Put `values` [k, columns], in the stored dtype, over rows; other bytes stay."""
        stored = self.checkpoint.tensors[view.tensor]
        self.open(stored.file).write(stored, view, rows, values)

    def sync(self) -> None:
        """Flush all files to the disk."""
        for file in self._files.values():
            file.sync()

    def open(self, name: str) -> "WeightFile":
        """The file of that name, opened now if it was not."""
        with self._lock:
            if name not in self._files:
                path, remote = self.checkpoint.place.path(name), self.checkpoint.remote
                content: Content = (
                    LocalFile(path, os.open(path, self._flags))
                    if remote is None
                    else remote.file(name)
                )
                self._files[name] = WeightFile(content)
            return self._files[name]


class Content(Protocol):
    """The bytes of an open weight file, wherever they are."""

    def read_into(self, pieces: Iterable[tuple[memoryview, int]]) -> None:
        """Fill buffers with the bytes that begin at the places beside them.

        Raises:
            CheckpointError: the file ends early.
        """

    def write(self, content: bytes | memoryview, start: int) -> None:
        """Put bytes over those that begin at a place."""

    def sync(self) -> None:
        """Flush what was written to the disk."""

    def close(self) -> None:
        """Close it."""


class LocalFile:
    """A weight file on this machine, as `Content`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Take over an open descriptor; `path` is named in errors."""
        self._path, self._descriptor = path, descriptor

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)

    def sync(self) -> None:
        """Flush what was written to the disk."""
        os.fsync(self._descriptor)

    def read_into(self, pieces: Iterable[tuple[memoryview, int]]) -> None:
        """Fill buffers with the bytes that begin at the places beside them."""
        for target, start in pieces:
            done = 0
            while done < len(target):  # one preadv call gives at most 2 GiB
                count = os.preadv(self._descriptor, [target[done:]], start + done)
                if count == 0:
                    raise CheckpointError(
                        f"{self._path}: ends at byte {start + done}, inside a tensor; "
                        "the file is truncated, fetch it again"
                    )
                done += count

    def write(self, content: bytes | memoryview, start: int) -> None:
        """Put bytes over those that begin at a place."""
        done = 0
        while done < len(content):
            done += os.pwrite(self._descriptor, content[done:], start + done)


class WeightFile:
    """An open weight file; knows where rows are, not what they mean."""

    def __init__(self, content: Content) -> None:
        """Take over an open file."""
        self._content = content

    def close(self) -> None:
        """Close it."""
        self._content.close()

    def sync(self) -> None:
        """Flush what was written to the disk."""
        self._content.sync()

    def read(
        self,
        stored: StoredTensor,
        view: RowView,
        rows: NDArray[np.int64],
        *,
        out: Rows | None = None,
    ) -> Rows:
        """Rows (ascending numbers) of a view of one of the file's tensors, [k, columns]."""
        if out is None:
            out = np.empty((len(rows), view.columns), dtype=ROW_DTYPES[view.dtype])
        chosen = out[: len(rows)]
        if view.is_transposed:
            for columns, start, lines in self._lines(stored, view, rows):
                chosen[:, columns] = lines[:, (rows - start) * view.row_stride].T
            return chosen
        target = chosen.view(np.uint8).reshape(-1).data
        row_bytes = view.columns * view.itemsize
        self._content.read_into(
            (target[first * row_bytes : last * row_bytes], place)
            for first, last, place in _stretches(stored, view, rows)
        )
        return chosen

    def write(
        self, stored: StoredTensor, view: RowView, rows: NDArray[np.int64], values: Rows
    ) -> None:
        """Put `values` [k, columns], in the stored dtype, over rows; other bytes stay."""
        if view.is_transposed:
            for columns, start, lines in self._lines(stored, view, rows):
                lines[:, (rows - start) * view.row_stride] = values[:, columns].T
                first_element = view.offset + start * view.row_stride
                for column, line in zip(range(*columns.indices(view.columns)), lines, strict=True):
                    element = first_element + column * view.column_stride
                    self._content.write(line.tobytes(), stored.start + element * view.itemsize)
            return
        content = np.ascontiguousarray(values).view(np.uint8).reshape(-1).data
        row_bytes = view.columns * view.itemsize
        for first, last, place in _stretches(stored, view, rows):
            self._content.write(content[first * row_bytes : last * row_bytes], place)

    def _lines(
        self, stored: StoredTensor, view: RowView, rows: NDArray[np.int64]
    ) -> Iterator[tuple[slice, int, Rows]]:
        """Of a transposed view: columns, the first row, and the stored elements from that row on.

        Yields [columns, span] blocks that start at the smallest of `rows` and end at the largest.
        """
        if not len(rows):
            return
        start = int(rows[0])
        span = int(rows[-1] - start) * view.row_stride + 1
        first_element = view.offset + start * view.row_stride
        count = max(1, CHUNK_BYTES // (span * view.itemsize))
        for column in range(0, view.columns, count):
            stop = min(column + count, view.columns)
            lines = np.empty((stop - column, span), dtype=ROW_DTYPES[view.dtype])
            firsts = first_element + np.arange(column, stop) * view.column_stride
            places = (stored.start + firsts * view.itemsize).tolist()
            targets = (line.view(np.uint8).data for line in lines)
            self._content.read_into(zip(targets, places, strict=True))
            yield slice(column, stop), start, lines


def stretches(
    stored: StoredTensor, view: RowView, rows: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """First byte, and one past the last, of the stretches of the file where rows are.

    Rows of a transposed matrix are everywhere in it: they have one stretch, the whole matrix.
    """
    if view.is_transposed:
        first, last = view.offset * view.itemsize, view.stop * view.itemsize
        return [(stored.start + first, stored.start + last)]
    row_bytes = view.columns * view.itemsize
    return [
        (place, place + (last - first) * row_bytes)
        for first, last, place in _stretches(stored, view, rows)
    ]


def _stretches(
    stored: StoredTensor, view: RowView, rows: NDArray[np.int64]
) -> Iterator[tuple[int, int, int]]:
    """Ranges of positions in `rows` that are one stretch of the file, and its first byte."""
    begin = stored.start + view.offset * view.itemsize
    for first, last in _runs(rows, view.row_stride == view.columns):
        yield first, last, begin + int(rows[first]) * view.row_stride * view.itemsize


def _runs(rows: NDArray[np.int64], neighbors_touch: bool) -> Iterator[tuple[int, int]]:
    """Ranges of positions in `rows` that are one stretch of the file."""
    if not len(rows):
        return
    if neighbors_touch and rows[-1] - rows[0] == len(rows) - 1:
        yield 0, len(rows)
        return
    breaks = np.arange(1, len(rows))
    if neighbors_touch:
        breaks = breaks[np.diff(rows) != 1]
    edges = [0, *breaks.tolist(), len(rows)]
    yield from itertools.pairwise(edges)
