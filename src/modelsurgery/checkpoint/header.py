"""The header of a safetensors file: which tensor is where, of which type and shape.

Headers come from strangers: every length, offset and name is checked before it is used.

Format: https://huggingface.co/docs/safetensors (8 bytes header length, JSON header, data).
"""

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsurgery.errors import CheckpointError
from modelsurgery.files.atomic import sha256_bytes

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself
MAX_JSON_BYTES = 100_000_000
MAX_DIMENSIONS = 64  # of numpy and torch; the product of a million lengths would take hours

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
    """Where one tensor's bytes are."""

    name: str  # its name in the checkpoint
    file: str  # name of the file inside the directory
    dtype: str  # safetensors' name of the element type (`BF16`, …)
    shape: tuple[int, ...]  # as stored
    start: int  # first byte, counted from the beginning of the file
    size_bytes: int  # length in bytes


def header_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of the header, its length included: fixed while no tensor moves.

    Raises:
        CheckpointError: truncated, or of an impossible length.
    """
    return sha256_bytes(b"".join(_prefix_and_header(path)[:2]))


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read and check the header of one safetensors file; tensors by name.

    Raises:
        CheckpointError: truncated, malformed, or with sizes and offsets that contradict the file.
    """
    prefix, content, file_bytes = _prefix_and_header(path)
    header = _parse_object(content, path)
    header.pop("__metadata__", None)
    data_start = len(prefix) + len(content)
    tensors = {
        name: _stored_tensor(name, entry, path, data_start) for name, entry in header.items()
    }
    end = data_start
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.size_bytes)):
        if tensor.start != end:
            raise CheckpointError(
                f"{path}: tensor {tensor.name!r} overlaps another or leaves a gap; the header is "
                "damaged, fetch the file again"
            )
        end += tensor.size_bytes
    if end != file_bytes:
        raise CheckpointError(
            f"{path}: tensors end at byte {end}, the file at {file_bytes}; "
            "the file is truncated, fetch it again"
        )
    return tensors


def _prefix_and_header(path: Path) -> tuple[bytes, bytes, int]:
    """The length as it is stored, the header, and the size of the file."""
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
        return prefix, file.read(header_bytes), file_bytes


def _stored_tensor(name: str, entry: Any, path: Path, data_start: int) -> StoredTensor:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end]} if (
            dtype in ITEM_BITS
            and all(type(count) is int and 0 <= count < 2**63 for count in (*shape, begin, end))
            and len(shape) <= MAX_DIMENSIONS
            and begin <= end
            and math.prod(shape) * ITEM_BITS[dtype] == 8 * (end - begin)
        ):
            start = data_start + begin
            return StoredTensor(name, path.name, dtype, tuple(shape), start, end - begin)
    raise CheckpointError(
        f"{path}: the entry of tensor {name!r} is malformed; expected dtype, "
        "shape and data_offsets that agree, fetch the file again"
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
        # Decoded here: json.loads(bytes) would guess UTF-16, which nothing that reads models takes.
        parsed = json.loads(content.decode(), object_pairs_hook=lambda pairs: _unique(pairs, path))
        if b"\\u" in content:  # half a surrogate pair is no text, and could not be written again
            json.dumps(parsed, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); fetch the file again") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(parsed).__name__}")
    return parsed


def _unique(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise CheckpointError(f"{path}: a name occurs twice; the file is damaged or malicious")
    return unique
