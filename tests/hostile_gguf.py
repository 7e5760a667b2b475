"""Damaged and hostile GGUF files by the thousand, and what surgery reads of each."""

import random
import struct
from pathlib import Path

from fuzzing import damaged, flipped
from gguf_tiny import write_gguf
from modelsurgery import open_checkpoint
from modelsurgery.checkpoint.gguf_header import read_gguf_header
from modelsurgery.checkpoint.layouts import find_gate_matrices
from modelsurgery.errors import SurgeryError
from tiny import read_rows, write_tiny_model

WHOLE_EVERY = 10
NUMBERS = (0, 1, 2, 7, 8, 9, 31, 2**16, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def sound_file(directory: Path) -> tuple[bytes, int]:
    """A small model, and the length of its header."""
    model = write_tiny_model(directory / "model", "llama", num_hidden_layers=1)
    path = write_gguf(model, directory / "model.gguf", "Q4_0")
    data_start = min(one.start for one in read_gguf_header(path).tensors.values())
    return path.read_bytes(), data_start


def with_number(content: bytes, header: int, generator: random.Random) -> bytes:
    """One number of the header, or what may be one, replaced by a strange one."""
    form, size = generator.choice((("<I", 4), ("<Q", 8)))
    number = generator.choice(NUMBERS) % 2 ** (8 * size)
    place = generator.choice((8, 16, generator.randrange(4, header - 8)))
    return content[:place] + struct.pack(form, number) + content[place + size :]


def hostile(content: bytes, header: int, generator: random.Random) -> bytes:
    kind = generator.randrange(4)
    if kind == 0:
        return flipped(content, generator.randrange(8 * header))
    if kind == 1:
        return damaged(content[:header], generator) + content[header:]
    if kind == 2:
        return content[: generator.randrange(len(content))]
    return with_number(content, header, generator)


def looked_at(path: Path) -> None:
    """Everything that surgery reads of a file."""
    checkpoint = open_checkpoint(path)
    size = path.stat().st_size
    for tensor in checkpoint.tensors.values():
        assert 0 < tensor.start <= tensor.start + tensor.size_bytes <= size
    for gate in find_gate_matrices(checkpoint):
        assert len(read_rows(checkpoint, gate.view)) == gate.rows


def fuzz(sound: tuple[bytes, int], path: Path, count: int, seed: int) -> tuple[int, int]:
    """How many of so many hostile files were read and refused."""
    content, header = sound
    generator = random.Random(seed)
    read = refused = 0
    for number in range(count):
        path.write_bytes(hostile(content, header, generator))
        try:
            read_gguf_header(path)
            if number % WHOLE_EVERY == 0:  # finding rows takes ten times as long
                looked_at(path)
            read += 1
        except SurgeryError as error:
            refused += "\n" not in str(error)
    return read, refused
