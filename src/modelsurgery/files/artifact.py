"""A small file of our own: tensors with one JSON description, as safetensors.

Probes and edits are artifacts. The same content gives the same bytes.
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from modelsurgery.errors import ArtifactError
from modelsurgery.files.atomic import reading_errors, write_bytes
from modelsurgery.files.magic import GGUF_MAGIC

MAX_KIND_SEARCH_BYTES = 1 << 20


def write_artifact(
    path: Path | str, kind: str, tensors: dict[str, NDArray[Any]], description: dict[str, Any]
) -> None:
    """Write an artifact of a kind (`probe`, `edit`), whole or not at all."""
    # One metadata key: safetensors writes several in an order that changes from run to run.
    metadata = {_key(kind): json.dumps(description, sort_keys=True, allow_nan=False)}
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    write_bytes(Path(path), save(contiguous, metadata))


@reading_errors()
def read_artifact(path: Path, kind: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Tensors and description of an artifact.

    Raises:
        ArtifactError: missing, damaged, or of another kind.
        StorageError: it may not be read.
    """
    if not path.is_file():
        raise ArtifactError(f"no {kind} at {path}; make one with `surgery {kind}`")
    content = path.read_bytes()
    if content.startswith(GGUF_MAGIC):
        raise ArtifactError(
            f"{path}: a GGUF file; expected a file of type {kind}, such as `surgery {kind}` makes"
        )
    try:
        tensors = load(content)
        (header_bytes,) = struct.unpack("<Q", content[:8])
        metadata = json.loads(content[8 : 8 + header_bytes]).get("__metadata__", {})
        description = json.loads(metadata[_key(kind)])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"{path}: not a readable {kind} ({type(error).__name__}: {error}); make one with "
            f"`surgery {kind}`"
        ) from error
    if not isinstance(description, dict):
        raise ArtifactError(f"{path}: its description is not a JSON object; make it again")
    return tensors, description


@reading_errors()
def is_artifact(path: Path, kind: str) -> bool:
    """Whether a file says of itself that it is of a kind; false for anything unreadable."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _key(kind).encode() in file.read(MAX_KIND_SEARCH_BYTES)


def _key(kind: str) -> str:
    return f"modelsurgery.{kind}"
