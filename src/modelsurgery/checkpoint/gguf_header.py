"""The header of a GGUF file: metadata, and which tensor is where, of which type and shape.

Headers come from strangers: every count, length, offset and type is checked before it is used, and
what is not needed (the tokenizer, most of a header) is stepped over. The gguf package builds an
array for each token instead, which takes seconds.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
"""

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from modelsurgery.checkpoint.header import StoredTensor
from modelsurgery.errors import CheckpointError
from modelsurgery.files.atomic import sha256_bytes
from modelsurgery.files.magic import GGUF_MAGIC

VERSIONS = (2, 3)
MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 4  # of ggml
MAX_NAME_BYTES = 1024
MAX_ARRAY_KEPT = 4096  # longer ones are the tokenizer's
READ_BYTES = 1 << 20

# Number of a type: its name, values in a block, bytes of a block.
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2),
    26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
BLOCK_VALUES = {name: values for name, values, _ in TYPES.values()}

# Number of a kind of metadata: how it is stored.
SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
STRING, ARRAY = 8, 9

Entry = tuple[str, tuple[int, ...], int, int]  # name, shape, number of the type, offset of a tensor


@dataclass(frozen=True)
class GgufHeader:
    """What the header of one GGUF file says."""

    metadata: dict[str, Any]  # values by key; of long arrays and arrays of strings, None
    # Where each tensor is, by llama.cpp's name; shapes as numpy has them.
    tensors: dict[str, StoredTensor]
    sha256: str  # hash of everything before the data


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check the header of one GGUF file.

    Raises:
        CheckpointError: truncated, malformed, of another version, or with sizes and offsets that
            contradict the file.
    """
    with path.open("rb", buffering=0) as file:
        header = _Bytes(path, file)
        tensor_count, pair_count = _counts(header)
        metadata: dict[str, Any] = {}
        for _ in range(pair_count):
            key = header.string(MAX_NAME_BYTES)
            if key in metadata:
                raise header.damaged(f"metadata {key!r} occurs twice")
            metadata[key] = _value(header, key)
        entries = [_entry(header) for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment % 8:
            raise header.damaged(f"alignment {alignment!r}; expected a multiple of 8")
        header_end = header.position
        data_start = _aligned(header_end, alignment)
        if data_start > header.file_bytes and tensor_count:
            raise header.damaged("it ends before the first tensor")
        header.skip(min(data_start, header.file_bytes) - header_end)
        tensors = _placed(header, entries, data_start, alignment)
        return GgufHeader(metadata, tensors, sha256_bytes(header.so_far()))


class _Bytes:
    """The bytes of a header one after the other, never more of them than the file has."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file = path, file
        self.file_bytes = os.fstat(file.fileno()).st_size
        self.position = 0
        self._held = bytearray()

    def damaged(self, reason: str) -> CheckpointError:
        """The error of a file that contradicts itself."""
        return CheckpointError(
            f"{self.path}: {reason}; the file is damaged or not a GGUF model, fetch it again"
        )

    def skip(self, count: int) -> int:
        """Step over bytes; where they begin."""
        start, end = self.position, self.position + count
        if end > len(self._held):
            if end > self.file_bytes:
                raise self.damaged(
                    f"its header needs {count} bytes at byte {start} of {self.file_bytes}"
                )
            if end > MAX_HEADER_BYTES:
                raise self.damaged(f"its header is longer than {MAX_HEADER_BYTES} bytes")
            while len(self._held) < end:
                wanted = max(end - len(self._held), READ_BYTES)
                if not (block := self._file.read(wanted)):
                    raise self.damaged("it was truncated while it was read")
                self._held += block
        self.position = end
        return start

    def number(self, kind: str) -> Any:
        """A number, as `struct` calls its kind."""
        start = self.skip(struct.calcsize(f"<{kind}"))
        return struct.unpack_from(f"<{kind}", self._held, start)[0]

    def string(self, most: int | None = None) -> str:
        """A text of at most so many bytes."""
        length = self.number("Q")
        if most is not None and length > most:
            raise self.damaged(f"a name of {length} bytes at byte {self.position}")
        start = self.skip(length)
        try:
            return self._held[start : self.position].decode()
        except UnicodeDecodeError as error:
            raise self.damaged(f"the text at byte {start} is not UTF-8") from error

    def skip_strings(self, count: int) -> None:
        """Step over texts without making them."""
        unpack, held = struct.Struct("<Q").unpack_from, self._held
        position, ready = self.position, len(self._held) - 8
        for _ in range(count):
            if position > ready:
                self.position = position
                self.skip(8)
                ready = len(held) - 8
            position += 8 + unpack(held, position)[0]
        self.position = min(position, self.file_bytes)
        self.skip(position - self.position)

    def so_far(self) -> memoryview:
        """Everything up to here."""
        return memoryview(bytes(self._held[: self.position]))


def _counts(header: _Bytes) -> tuple[int, int]:
    """How many tensors and how many pairs of metadata there are."""
    if header.file_bytes < 24:
        raise header.damaged(f"{header.file_bytes} bytes are too short")
    magic = header.skip(4)
    if header.so_far()[magic:] != GGUF_MAGIC:
        raise header.damaged("it does not begin with GGUF")
    version = header.number("I")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        raise header.damaged(
            "it is big-endian; expected little-endian"
            if swapped
            else f"version {version} of GGUF; expected {' or '.join(map(str, VERSIONS))}"
        )
    tensors, pairs = header.number("Q"), header.number("Q")
    # The smallest tensor takes 24 bytes, the smallest pair 13: no larger numbers are believed.
    if tensors * 24 + pairs * 13 > header.file_bytes:
        raise header.damaged(f"it claims {tensors} tensors and {pairs} pairs of metadata")
    return tensors, pairs


def _value(header: _Bytes, key: str) -> Any:
    """The value of a pair of metadata; None where it is a long array or one of strings."""
    kind = header.number("I")
    if kind in SCALARS:
        return header.number(SCALARS[kind])
    if kind == STRING:
        return header.string()
    if kind != ARRAY:
        raise header.damaged(f"metadata {key!r} is of the unknown kind {kind}")
    inner, count = header.number("I"), header.number("Q")
    if inner == STRING:
        if count * 8 > header.file_bytes:
            raise header.damaged(f"metadata {key!r} claims {count} texts")
        header.skip_strings(count)
        return None
    if inner not in SCALARS:
        raise header.damaged(f"metadata {key!r} is an array of kind {inner}")
    if count <= MAX_ARRAY_KEPT:
        return [header.number(SCALARS[inner]) for _ in range(count)]
    header.skip(count * struct.calcsize(f"<{SCALARS[inner]}"))
    return None


def _entry(header: _Bytes) -> Entry:
    name = header.string(MAX_NAME_BYTES)
    dimensions = header.number("I")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise header.damaged(f"tensor {name!r} has {dimensions} dimensions")
    shape = tuple(header.number("Q") for _ in range(dimensions))
    return name, shape[::-1], header.number("I"), header.number("Q")


def _placed(
    header: _Bytes, entries: list[Entry], data_start: int, alignment: int
) -> dict[str, StoredTensor]:
    """Tensors by name, if they follow each other as the format says: in order, without gaps."""
    tensors: dict[str, StoredTensor] = {}
    end = data_start
    for name, shape, kind, offset in entries:
        if name in tensors:
            raise header.damaged(f"tensor {name!r} occurs twice")
        if kind not in TYPES:
            raise header.damaged(f"tensor {name!r} is of the unknown type {kind}")
        dtype, values, block_bytes = TYPES[kind]
        if 0 in shape or math.prod(shape) >= 2**62 or shape[-1] % values:
            raise header.damaged(f"tensor {name!r} cannot have shape {list(shape)} as {dtype}")
        start, size = data_start + offset, math.prod(shape) // values * block_bytes
        if start != _aligned(end, alignment):
            raise header.damaged(f"tensor {name!r} overlaps another or leaves a gap")
        end = start + size
        if end > header.file_bytes:
            raise CheckpointError(
                f"{header.path}: tensor {name!r} ends at byte {end}, the file at "
                f"{header.file_bytes}; the file is truncated, fetch it again"
            )
        tensors[name] = StoredTensor(name, header.path.name, dtype, shape, start, size)
    return tensors


def _aligned(place: int, alignment: int) -> int:
    return -(-place // alignment) * alignment
