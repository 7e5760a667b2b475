"""A model directory as tensors on disk: which file holds which bytes, and reading rows of them.

Reads `config.json` and the headers of the safetensors files, single or sharded, and nothing else
until rows are asked for. Headers come from strangers: every length, offset, name and file name is
checked before it is used.

Format: https://huggingface.co/docs/safetensors (8 bytes header length, JSON header, data).
"""

import json
import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modelsurgery.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself
MAX_JSON_BYTES = 100_000_000

DTYPES: dict[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
ITEM_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor's bytes are.

    Attributes:
        name: its name in the checkpoint.
        file: name of the file inside the directory.
        dtype: safetensors' name of the element type (`BF16`, …).
        shape: as stored.
        start: first byte, counted from the beginning of the file.
        size_bytes: length in bytes.
    """

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size_bytes: int


@dataclass(frozen=True)
class Checkpoint:
    """A model directory: configuration and the place of every tensor. Holds no weights.

    Attributes:
        directory: where it is.
        config: the content of `config.json`.
        tensors: stored tensors by name.
    """

    directory: Path
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the weight files, sorted."""
        return tuple(sorted({tensor.file for tensor in self.tensors.values()}))

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors.values())

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Read rows `start:stop` of a matrix, [stop - start, columns] in the stored dtype.

        Raises:
            CheckpointError: the file ends early.
        """
        tensor = self.tensors[name]
        columns = tensor.shape[1]
        dtype = DTYPES[tensor.dtype]
        row_bytes = columns * dtype.itemsize
        with (self.directory / tensor.file).open("rb") as file:
            content = _read_exactly(
                file.fileno(),
                tensor.start + start * row_bytes,
                (stop - start) * row_bytes,
                self.directory / tensor.file,
            )
        return torch.frombuffer(content, dtype=dtype).view(stop - start, columns)


def open_checkpoint(directory: Path | str) -> Checkpoint:
    """Read what a model directory holds, headers only.

    Raises:
        ModelNotFoundError: no such directory, or no `config.json` in it.
        UnsupportedModelError: no safetensors weights in it.
        CheckpointError: a header, an index or the configuration is damaged or hostile.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ModelNotFoundError(
            f"no model directory at {directory}; expected a directory with config.json and "
            "safetensors weights"
        )
    if not (directory / "config.json").is_file():
        raise ModelNotFoundError(
            f"{directory} has no config.json; expected a transformers model directory"
        )
    config = read_json_object(directory / "config.json")
    if (directory / SINGLE_FILE).is_file():
        tensors = read_header(directory / SINGLE_FILE)
    elif (directory / INDEX_FILE).is_file():
        tensors = _read_sharded(directory)
    else:
        raise UnsupportedModelError(
            f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}; expected safetensors "
            "weights (convert pickled ones with transformers' save_pretrained first)"
        )
    return Checkpoint(directory, config, tensors)


def _read_sharded(directory: Path) -> dict[str, StoredTensor]:
    index_path = directory / INDEX_FILE
    weight_map = read_json_object(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index_path}: expected a weight_map of tensor names to file names")
    headers: dict[str, dict[str, StoredTensor]] = {}
    tensors = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or file in {"", ".", ".."}:
            raise CheckpointError(
                f"{index_path}: tensor {name!r} points to {file!r}; expected the plain name of a "
                "file in the same directory"
            )
        if file not in headers:
            if not _is_file(directory / file):
                raise CheckpointError(
                    f"{index_path}: names {file}, which is not there; the download is incomplete"
                )
            headers[file] = read_header(directory / file)
        if name not in headers[file]:
            raise CheckpointError(f"{index_path}: says that {file} holds {name!r}; it does not")
        tensors[name] = headers[file][name]
    return tensors


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than the file system can hold
        return False


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read and check the header of one safetensors file; tensors by name.

    Raises:
        CheckpointError: truncated, malformed, or with sizes and offsets that contradict the file.
    """
    with path.open("rb") as file:
        file_bytes = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        if len(prefix) < 8:
            raise CheckpointError(
                f"{path}: {file_bytes} bytes is too short for safetensors; "
                "the file is truncated, fetch it again"
            )
        (header_bytes,) = struct.unpack("<Q", prefix)
        if header_bytes > min(MAX_HEADER_BYTES, file_bytes - 8):
            raise CheckpointError(
                f"{path}: the header claims {header_bytes} bytes in a file of {file_bytes}; "
                "the file is truncated or not safetensors, fetch it again"
            )
        header = _parse_object(file.read(header_bytes), path)
    header.pop("__metadata__", None)
    data_start = 8 + header_bytes
    tensors = {
        name: _stored_tensor(name, entry, path, data_start) for name, entry in header.items()
    }
    end = data_start
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.size_bytes)):
        if tensor.start != end:
            raise CheckpointError(
                f"{path}: tensor {tensor.name!r} overlaps another or leaves a "
                "hole; the header is damaged, fetch the file again"
            )
        end += tensor.size_bytes
    if end != file_bytes:
        raise CheckpointError(
            f"{path}: tensors end at byte {end}, the file at {file_bytes}; "
            "the file is truncated, fetch it again"
        )
    return tensors


def _stored_tensor(name: str, entry: Any, path: Path, data_start: int) -> StoredTensor:
    damaged = CheckpointError(
        f"{path}: the entry of tensor {name!r} is malformed; expected dtype, "
        "shape and data_offsets that agree, fetch the file again"
    )
    if not isinstance(entry, dict):
        raise damaged
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        raise damaged
    if not _are_counts(shape) or not _are_counts(offsets):
        raise damaged
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise damaged
    if math.prod(shape) * ITEM_BITS[dtype] != 8 * (offsets[1] - offsets[0]):
        raise damaged
    return StoredTensor(
        name, path.name, dtype, tuple(shape), data_start + offsets[0], offsets[1] - offsets[0]
    )


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 2**63 for value in values
    )


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        CheckpointError: too large, not JSON, or not an object.
    """
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CheckpointError(f"{path}: over {MAX_JSON_BYTES} bytes; expected a small JSON file")
    return _parse_object(path.read_bytes(), path)


def _parse_object(content: bytes, path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(content, object_pairs_hook=lambda pairs: _unique(pairs, path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); fetch the file again") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(parsed).__name__}")
    return parsed


def _unique(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise CheckpointError(f"{path}: a name stands twice; the file is damaged or hostile")
    return unique


def _read_exactly(descriptor: int, start: int, size: int, path: Path) -> bytearray:
    content = bytearray(size)
    view = memoryview(content)
    done = 0
    while done < size:  # one preadv call gives at most 2 GiB
        count = os.preadv(descriptor, [view[done:]], start + done)
        if count == 0:
            raise CheckpointError(
                f"{path}: ends at byte {start + done}, inside a tensor; "
                "the file is truncated, fetch it again"
            )
        done += count
    return content


@contextmanager
def row_writer(path: Path) -> Iterator[Any]:
    """Open a weight file for patching; gives `write(start_byte, content)`, flushed at the end."""
    with path.open("r+b") as file:

        def write(start: int, content: bytes) -> None:
            done = 0
            while done < len(content):
                done += os.pwrite(file.fileno(), content[done:], start + done)

        yield write
        os.fsync(file.fileno())
