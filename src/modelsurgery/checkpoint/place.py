"""Where the files of a model are, and where a surgery on it keeps its records.

A model is a directory, or a GGUF file (one, or a set `NAME-00001-of-0000N.gguf`) that may lie
beside files of other models. A GGUF file is known by its name, or by its first bytes where it is
called otherwise. Journals and manifests call weight files by names that stay when they are renamed
or copied: those of a directory are their own, those of a GGUF file `model.gguf` or
`model-00001-of-0000N.gguf`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from modelsurgery.files.magic import begins_as_gguf

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
    """Where a model is on disk."""

    directory: Path  # directory with its weight files
    # What the names of its GGUF files begin with; None for a model directory.
    stem: str | None = None
    splits: int = 0  # number of GGUF files of a set; 0 of a single one
    # What their names end with: `.gguf`, as it is spelled there, or nothing.
    ending: str = GGUF_SUFFIX
    url: str | None = None  # of a model in an object store, whose headers are in `directory`

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
        """Where the weight file of a stable name, hidden or not, is."""
        if self.stem is not None:
            shown = name.removesuffix(IN_SURGERY_SUFFIX)
            number = shown.removeprefix(STABLE_STEM).removesuffix(GGUF_SUFFIX)
            name = self.stem + number + self.ending + name.removeprefix(shown)
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
        if self.stem is None:
            return name
        number = name.removeprefix(self.stem).removesuffix(self.ending)
        return STABLE_STEM + number + GGUF_SUFFIX

    def __str__(self) -> str:
        return self.url or str(self.model)


def place_of(model: Path | str) -> Place:
    """The place of a model given as a directory or as (any one of) its GGUF files.

    What is not there is taken for a GGUF file if its name ends in `.gguf`, in any case.
    """
    path = Path(model)
    name = path.name.removesuffix(IN_SURGERY_SUFFIX)
    ending = name[-len(GGUF_SUFFIX) :] if name.lower().endswith(GGUF_SUFFIX) else ""
    if path.is_dir() or not (ending or _begins_as_gguf(path.parent / name)):
        return Place(path)
    stem = name.removesuffix(ending)
    split = SPLIT.search(stem)
    if split is None or not 0 < int(split[1]) <= int(split[2]) <= MAX_SPLITS:
        return Place(path.parent, stem, 0, ending)
    return Place(path.parent, stem.removesuffix(split[0]), int(split[2]), ending)


def _begins_as_gguf(path: Path) -> bool:
    return begins_as_gguf(path) or begins_as_gguf(hidden_name(path))


def hidden_name(path: Path) -> Path:
    """What a file is called while it is written to."""
    return path.with_name(path.name + IN_SURGERY_SUFFIX)


def is_gguf(model: Path | str) -> bool:
    """Whether a model is given as a GGUF file, there or not (see `place_of`), hidden or not."""
    return place_of(model).is_gguf


def is_plain_name(name: str) -> bool:
    """Whether a name means a file in the same directory and nothing else."""
    return Path(name).name == name and name not in {"", ".", ".."} and "\0" not in name
