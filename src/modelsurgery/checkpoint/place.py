"""Where the files of a model are, and where a surgery on it keeps its records.

A model is a directory, or a GGUF file (one, or a set `NAME-00001-of-0000N.gguf`) that may lie
beside files of other models. Journals and manifests call weight files by names that stay when they
are renamed or copied: those of a directory are their own, those of a GGUF file `model.gguf` or
`model-00001-of-0000N.gguf`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

# While an edit in place is under way, the files that it writes to bear this suffix, so that
# nothing can load a half-edited model.
IN_SURGERY_SUFFIX = ".in-surgery"
GGUF_SUFFIX = ".gguf"
RECORDS_SUFFIX = ".surgery"
STABLE_STEM = "model"
SPLIT = re.compile(r"-(\d{5})-of-(\d{5})$")
MAX_SPLITS = 10_000


@dataclass(frozen=True)
class Place:
    """Where a model is on disk.

    Attributes:
        directory: directory with its weight files.
        stem: what the names of its GGUF files begin with; None for a model directory.
        splits: number of GGUF files of a set; 0 of a single one.
    """

    directory: Path
    stem: str | None = None
    splits: int = 0

    @property
    def is_gguf(self) -> bool:
        """Whether it is one or several GGUF files."""
        return self.stem is not None

    @property
    def model(self) -> Path:
        """What is given to a command: the directory, or the (first) GGUF file."""
        return self.directory if self.stem is None else self.path(self.gguf_names[0])

    @property
    def records(self) -> Path:
        """Directory with manifest and journals."""
        if self.stem is None:
            return self.directory
        return self.model.with_name(self.model.name + RECORDS_SUFFIX)

    @property
    def gguf_names(self) -> tuple[str, ...]:
        """Stable names of the GGUF files."""
        if not self.splits:
            return (STABLE_STEM + GGUF_SUFFIX,)
        return tuple(
            f"{STABLE_STEM}-{number:05d}-of-{self.splits:05d}{GGUF_SUFFIX}"
            for number in range(1, self.splits + 1)
        )

    def path(self, name: str) -> Path:
        """Where the weight file of a stable name is."""
        if self.stem is not None:
            name = self.stem + name.removeprefix(STABLE_STEM)
        return self.directory / name

    def hidden(self) -> list[Path]:
        """Weight files that a surgery is writing to, or was when it was interrupted."""
        if self.stem is None:
            return sorted(self.directory.glob(f"*{IN_SURGERY_SUFFIX}"))
        paths = (hidden_name(self.path(name)) for name in self.gguf_names)
        return [path for path in paths if path.exists()]

    def stable_name(self, path: Path) -> str:
        """The stable name of a weight file, hidden or not."""
        name = path.name.removesuffix(IN_SURGERY_SUFFIX)
        return name if self.stem is None else STABLE_STEM + name.removeprefix(self.stem)

    def __str__(self) -> str:
        return str(self.model)


def place_of(model: Path | str) -> Place:
    """The place of a model given as a directory or as (any one of) its GGUF files."""
    path = Path(model)
    name = path.name.removesuffix(IN_SURGERY_SUFFIX)
    if path.is_dir() or not name.endswith(GGUF_SUFFIX):
        return Place(path)
    stem = name.removesuffix(GGUF_SUFFIX)
    split = SPLIT.search(stem)
    if split is None or not 0 < int(split[1]) <= int(split[2]) <= MAX_SPLITS:
        return Place(path.parent, stem)
    return Place(path.parent, stem.removesuffix(split[0]), int(split[2]))


def hidden_name(path: Path) -> Path:
    """What a file is called while it is written to."""
    return path.with_name(path.name + IN_SURGERY_SUFFIX)


def is_gguf(path: Path) -> bool:
    """Whether a file's name, hidden or not, is that of a GGUF file."""
    return path.name.removesuffix(IN_SURGERY_SUFFIX).endswith(GGUF_SUFFIX)
