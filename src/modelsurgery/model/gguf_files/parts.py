"""Which files make up a GGUF model: one, or the parts of one that was split."""

import re
from collections.abc import Sequence
from pathlib import Path

from modelsurgery.errors import CheckpointError, ModelNotFoundError

SUFFIX = ".gguf"
MAGIC = b"GGUF"
# As `llama-gguf-split` names the parts.
PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def is_gguf(model: Path | str) -> bool:
    """Whether a model is given as a GGUF file: by the end of its name, there or not."""
    return str(model).endswith(SUFFIX) and not Path(model).is_dir()


def gguf_parts(path: Path) -> tuple[Path, ...]:
    """All files of a model, the first one first, for the path of any of them.

    Raises:
        CheckpointError: a part is missing, or a file is not in GGUF.
        ModelNotFoundError: there is no file at the path.
    """
    if not path.is_file():
        raise ModelNotFoundError(f"no file at {path}; expected a GGUF file or a model directory")
    parts: Sequence[Path] = (path,)
    if found := PART.fullmatch(path.name):
        count = int(found["count"])
        names = (f"{found['stem']}-{n:05}-of-{count:05}.gguf" for n in range(1, count + 1))
        parts = [path.with_name(name) for name in names]
    for part in parts:
        if not part.is_file():
            raise CheckpointError(
                f"{path}: {part.name}, another part of this model, is missing; put all parts into "
                "one directory"
            )
        with part.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise CheckpointError(
                    f"{part}: not a GGUF file; expected one that begins with {MAGIC.decode()}, "
                    "fetch it again"
                )
    return tuple(parts)


def plain_stem(path: Path) -> str:
    """Name of a model's file without its ending and the number of its part."""
    found = PART.fullmatch(path.name)
    return (found["stem"] if found else path.name.removesuffix(SUFFIX)) or "model"
