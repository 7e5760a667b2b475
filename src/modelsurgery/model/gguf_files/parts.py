"""Which files make up a GGUF model: one, or the parts of one that was split."""

from pathlib import Path

from modelsurgery.checkpoint.place import STABLE_STEM, place_of
from modelsurgery.errors import CheckpointError, ModelNotFoundError
from modelsurgery.files.magic import GGUF_MAGIC, begins_as_gguf


def gguf_parts(path: Path) -> tuple[Path, ...]:
    """All files of a model, the first one first, for the path of any of them.

    Raises:
        CheckpointError: a part is missing, or a file is not in GGUF.
        ModelNotFoundError: there is no file at the path.
    """
    if not path.is_file():
        raise ModelNotFoundError(f"no file at {path}; expected a GGUF file or a model directory")
    place = place_of(path)
    parts = tuple(place.path(name) for name in place.gguf_names)
    for part in parts:
        if not part.is_file():
            raise CheckpointError(
                f"{path}: {part.name}, another part of this model, is missing; put all parts into "
                "one directory"
            )
        if not begins_as_gguf(part):
            raise CheckpointError(
                f"{part}: not a GGUF file; expected one that begins with {GGUF_MAGIC.decode()}, "
                "fetch it again"
            )
    return parts


def plain_stem(path: Path) -> str:
    """Name of a model's file without its ending and the number of its part."""
    return place_of(path).stem or STABLE_STEM
