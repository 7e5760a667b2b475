"""Headers of weight files, whatever their format: safetensors or GGUF, told by the name."""

from pathlib import Path

from modelsurgery.checkpoint import header
from modelsurgery.checkpoint.gguf_header import read_gguf_header
from modelsurgery.checkpoint.header import StoredTensor
from modelsurgery.checkpoint.place import is_gguf
from modelsurgery.files.atomic import reading_errors


@reading_errors()
def read_header(path: Path) -> dict[str, StoredTensor]:
    """Tensors by name, as the header says.

    Raises:
        CheckpointError: it is damaged.
        StorageError: it may not be read.
    """
    return read_gguf_header(path).tensors if is_gguf(path) else header.read_header(path)


@reading_errors()
def header_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of the header: fixed while no tensor moves.

    Raises:
        CheckpointError: it is damaged.
        StorageError: it may not be read.
    """
    return read_gguf_header(path).sha256 if is_gguf(path) else header.header_sha256(path)
