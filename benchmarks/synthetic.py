"""Checkpoints in the exact shape of Llama-2, random, and written without a model in memory.

The weights are no model: rows are windows of a pool of 8 million normal numbers (bf16, standard
deviation 0.02), taken at random places, and each row has its sign bits and low mantissa bits
flipped by a mask of its own. So all are finite and rows differ, at the speed of the disk. Norm
weights are one.

In a sparse checkpoint only the first rows of each gate matrix are written; the rest is a hole,
which reads as zeros and takes no room. It shows memory, not time.
"""

import errno
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Fingerprints = dict[str, str]

POOL_VALUES = 1 << 23
CHUNK_VALUES = 1 << 21
BLOCK_BYTES = 1 << 20
ITEM_BYTES = 2
# The sign and the four lowest of the seven mantissa bits: a finite bf16 stays finite.
FLIPPABLE_BITS = 0x800F


@dataclass(frozen=True)
class Size:
    """The shape of a Llama.

    Attributes:
        blocks: how many.
        width: d, the hidden size.
        inner: f, rows of a gate matrix.
        vocabulary: rows of the embedding and of the head.
        heads: attention heads.
        key_heads: heads of keys and values; fewer than `heads` when queries share them.
        shard_bytes: a file holds at most so many bytes of tensors.
        chosen_rows: gate rows to edit, the paper's share of them.
        written_rows: first rows of each gate matrix to write, the rest a hole; None writes all.
    """

    blocks: int
    width: int
    inner: int
    vocabulary: int
    heads: int
    key_heads: int
    shard_bytes: int
    chosen_rows: int
    written_rows: int | None = None

    def tensors(self) -> dict[str, Shape]:
        """Names and shapes, in file order."""
        keys = self.width // self.heads * self.key_heads
        table = (self.vocabulary, self.width)
        found: dict[str, Shape] = {"model.embed_tokens.weight": table}
        for block in range(self.blocks):
            prefix = f"model.layers.{block}"
            found |= {
                f"{prefix}.input_layernorm.weight": (self.width,),
                f"{prefix}.self_attn.q_proj.weight": (self.width, self.width),
                f"{prefix}.self_attn.k_proj.weight": (keys, self.width),
                f"{prefix}.self_attn.v_proj.weight": (keys, self.width),
                f"{prefix}.self_attn.o_proj.weight": (self.width, self.width),
                f"{prefix}.post_attention_layernorm.weight": (self.width,),
                f"{prefix}.mlp.gate_proj.weight": (self.inner, self.width),
                f"{prefix}.mlp.up_proj.weight": (self.inner, self.width),
                f"{prefix}.mlp.down_proj.weight": (self.width, self.inner),
            }
        return found | {"model.norm.weight": (self.width,), "lm_head.weight": table}

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(_bytes(shape) for shape in self.tensors().values())

    @property
    def gate_bytes(self) -> int:
        """Bytes of all gate matrices."""
        return self.blocks * _bytes((self.inner, self.width))

    @property
    def stored_bytes(self) -> int:
        """What the disk has to hold."""
        if self.written_rows is None:
            return self.total_bytes
        return self.blocks * _bytes((self.written_rows, self.width))

    def config(self) -> dict[str, object]:
        """The content of config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.blocks,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-05,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": "bfloat16",
        }


SIZES = {
    "tiny": Size(4, 64, 176, 256, 4, 4, 300_000, 33),
    "tiny-sparse": Size(8, 128, 352, 256, 8, 2, 600_000, 33, written_rows=32),
    "7b": Size(32, 4096, 11008, 32000, 32, 32, 10**10, 16384),
    "70b": Size(80, 8192, 28672, 32000, 64, 8, 10**10, 16384, written_rows=512),
}


def ensure_checkpoint(directory: Path, size: Size) -> Fingerprints:
    """Write the checkpoint unless it is there whole and untouched; gives its fingerprints.

    What was written is remembered beside the directory, and everything is read again: a run that
    was interrupted in the middle of an edit leaves other bytes, and then all is written anew.
    """
    remembered = directory.with_name(f"{directory.name}.json")
    if directory.is_dir() and remembered.is_file():
        found = fingerprints(directory)
        if found == json.loads(remembered.read_text()):
            return found
    remembered.unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    _write(directory, size)
    os.sync()
    found = fingerprints(directory)
    remembered.write_text(json.dumps(found, indent=2) + "\n")
    return found


def _write(directory: Path, size: Size) -> None:
    shards = _shards(size)
    weights = _Weights(size)
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(tensors, name)
        _write_shard(directory / name, tensors, weights)
    index = {"metadata": {"total_size": size.total_bytes}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (directory / "config.json").write_text(json.dumps(size.config(), indent=2) + "\n")


def _shards(size: Size) -> list[dict[str, Shape]]:
    shards: list[dict[str, Shape]] = [{}]
    used = 0
    for name, shape in size.tensors().items():
        if shards[-1] and used + _bytes(shape) > size.shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = shape
        used += _bytes(shape)
    return shards


def _write_shard(path: Path, tensors: dict[str, Shape], weights: "_Weights") -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + _bytes(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(content)) + content)
        for name, shape in tensors.items():
            after = file.tell() + _bytes(shape)
            weights.write(file, name, shape)
            file.seek(after)  # over what was left out
        file.truncate()


class _Weights:
    """Gives the values of one tensor after the other, always the same for a size."""

    def __init__(self, size: Size) -> None:
        self.written_rows = size.written_rows
        self.random = np.random.default_rng(0)
        parts = [self._normal(CHUNK_VALUES) for _ in range(POOL_VALUES // CHUNK_VALUES)]
        self.pool = np.concatenate(parts)

    def _normal(self, count: int) -> NDArray[np.uint16]:
        values = self.random.standard_normal(count, dtype=np.float32) * np.float32(0.02)
        return (values.view(np.uint32) >> 16).astype(np.uint16)  # the upper half is bf16

    def write(self, file: BinaryIO, name: str, shape: Shape) -> None:
        """Write a tensor, or of a sparse one only the rows that are wanted."""
        if len(shape) == 1:
            ones = np.ones(shape, np.float32).view(np.uint32) >> 16
            file.write(ones.astype(np.uint16).tobytes())
            return
        rows, columns = shape
        if self.written_rows is not None:
            rows = min(rows, self.written_rows) if ".gate_proj." in name else 0
        step = max(1, CHUNK_VALUES // columns)
        for start in range(0, rows, step):
            count = min(step, rows - start)
            place = int(self.random.integers(POOL_VALUES - count * columns))
            window = self.pool[place : place + count * columns].reshape(count, columns)
            masks = self.random.integers(1 << 16, size=(count, 1), dtype=np.uint16)
            file.write((window ^ (masks & np.uint16(FLIPPABLE_BITS))).tobytes())


def _bytes(shape: Shape) -> int:
    count = ITEM_BYTES
    for length in shape:
        count *= length
    return count


def fingerprints(directory: Path) -> Fingerprints:
    """A fingerprint of every file below a directory, hidden ones too, by its name."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): _fingerprint(path) for path in files}


def _fingerprint(path: Path) -> str:
    """SHA-256 of the length, and of place and content of each block that is not all zeros.

    As good as that of all bytes, and a sparse file of 138 GB takes seconds.
    """
    digest = hashlib.sha256(str(path.stat().st_size).encode())
    zeros = bytes(BLOCK_BYTES)
    with path.open("rb", buffering=0) as file:
        for place in _blocks_with_data(file.fileno()):
            block = os.pread(file.fileno(), BLOCK_BYTES, place)
            if block != zeros[: len(block)]:
                digest.update(place.to_bytes(8, "little"))
                digest.update(block)
    return digest.hexdigest()


def _blocks_with_data(descriptor: int) -> Iterator[int]:
    length = os.fstat(descriptor).st_size
    place = 0
    while place < length:
        try:
            data = os.lseek(descriptor, place, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: nothing but a hole up to the end
                raise
            return
        hole = os.lseek(descriptor, data, os.SEEK_HOLE)
        first = max(place, data // BLOCK_BYTES * BLOCK_BYTES)
        yield from range(first, hole, BLOCK_BYTES)
        place = -(-hole // BLOCK_BYTES) * BLOCK_BYTES
