"""`surgery.json`, the manifest of an edited model directory: what was done, what should be there.

It names the journals that count, and SHA-256 of everything that is known: whole tensors and headers
where a copy was written, small files, and (in the journals) the edited rows.
"""

import hashlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field

from modelsurgery.apply.journal import Record, StoredJournal
from modelsurgery.checkpoint.header import read_json_object
from modelsurgery.checkpoint.place import is_plain_name
from modelsurgery.checkpoint.weight_headers import read_header
from modelsurgery.errors import CheckpointError, VerificationError
from modelsurgery.files.atomic import writable_json, write_json

SURGERY_MANIFEST = "surgery.json"
FORMAT_VERSION = 2
HASH_BLOCK_BYTES = 1 << 20
HEADER = ""  # no tensor has an empty name in a file that transformers writes


def _stays_inside(name: str) -> str:
    if not all(map(is_plain_name, name.split("/"))):
        raise ValueError(f"{name!r} is not the name of a file in the directory")
    return name


def _is_plain(name: str) -> str:
    if not is_plain_name(name):
        raise ValueError(f"{name!r} is not the plain name of a file")
    return name


# A manifest comes from a stranger: it may not have files read that are elsewhere, nor hold what
# could be read but not be written again.
InnerName = Annotated[str, AfterValidator(_stays_inside)]
PlainName = Annotated[str, AfterValidator(_is_plain)]
Described = Annotated[dict[str, Any], AfterValidator(writable_json)]


class Operation(Record):
    """One surgery: the number of its journal, and what that says of edits and versions."""

    journal: Annotated[str, Field(pattern=r"^[0-9]{4}$")]
    edits: list[Described]
    coverage: dict[str, int]
    provenance: Described


class WeightHashes(Record):
    """SHA-256 of a weight file's header, and by name of those of its tensors known whole."""

    header: str
    tensors: dict[str, str]

    @classmethod
    def of(cls, parts: Mapping[str, str]) -> "WeightHashes":
        """Hashes of parts of the file by name, the `HEADER` among them."""
        tensors = {name: one for name, one in parts.items() if name != HEADER}
        return cls(header=parts[HEADER], tensors=tensors)


class Manifest(Record):
    """The manifest of an edited directory."""

    format: int = FORMAT_VERSION  # version of this form
    # Surgeries that were done, oldest first.
    operations: list[Operation] = Field(default_factory=list)
    # SHA-256 of files other than weights, by name.
    files: dict[InnerName, str] = Field(default_factory=dict)
    # What is known of each weight file, by name.
    weights: dict[PlainName, WeightHashes] = Field(default_factory=dict)

    @property
    def journals(self) -> list[str]:
        """Numbers of the journals that count."""
        return [operation.journal for operation in self.operations]

    def after(self, stored: StoredJournal) -> "Manifest":
        """The manifest after one surgery more, without the hashes of whole tensors it changed."""
        journal, changed = stored.journal, stored.journal.tensors
        done = Operation(
            journal=stored.name,
            edits=journal.description,
            coverage=journal.coverage,
            provenance=journal.provenance,
        )
        weights = {
            file: WeightHashes(
                header=hashes.header,
                tensors={name: one for name, one in hashes.tensors.items() if name not in changed},
            )
            for file, hashes in self.weights.items()
        }
        return Manifest(operations=[*self.operations, done], files=self.files, weights=weights)


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a directory; an empty one where there is none.

    Raises:
        VerificationError: it is damaged, or of another version.
    """
    path = directory / SURGERY_MANIFEST
    if not path.exists() and not path.is_symlink():
        return Manifest()
    try:
        if not path.is_file():
            raise CheckpointError("it is not a file")
        content = read_json_object(path)
        if content.get("format") != FORMAT_VERSION:
            raise VerificationError(
                f"{path}: a manifest of format {content.get('format')!r}; this version reads "
                f"format {FORMAT_VERSION}, use the version of modelsurgery that wrote it"
            )
        return Manifest.model_validate(content)
    except (CheckpointError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise VerificationError(
            f"{path}: not a readable manifest ({reason}); so the history of this directory is "
            "unknown; restore the file or fetch the model again"
        ) from error


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write a manifest whole or not at all."""
    write_json(directory / SURGERY_MANIFEST, manifest.model_dump())


def manifest_text(directory: Path) -> str | None:
    """The manifest as it stands in the directory, to be put back by an undo."""
    path = directory / SURGERY_MANIFEST
    # As bytes: reading text would turn the ends of lines of another system into ours.
    return path.read_bytes().decode() if path.is_file() else None


class StoredPart(NamedTuple):
    """A tensor of a weight file, or its `HEADER`: first byte, and size in bytes."""

    path: Path
    name: str
    start: int
    size: int

    def sha256(self) -> str:
        """Hexadecimal SHA-256 of its bytes.

        Raises:
            VerificationError: the file ends inside it.
        """
        digest, left = hashlib.sha256(), self.size
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start)
            while left:
                block = file.read(min(left, HASH_BLOCK_BYTES))
                if not block:
                    raise VerificationError(f"{self.path}: was truncated while it was read")
                digest.update(block)
                left -= len(block)
        return digest.hexdigest()


def file_parts(path: Path) -> list[StoredPart]:
    """What a weight file consists of, in order.

    What lies between two tensors, in GGUF files, belongs to the first.
    """
    tensors = sorted(read_header(path).values(), key=lambda one: (one.start, one.size_bytes))
    names = [HEADER, *(one.name for one in tensors)]
    edges = itertools.pairwise([0, *(one.start for one in tensors), path.stat().st_size])
    return [
        StoredPart(path, name, start, end - start)
        for name, (start, end) in zip(names, edges, strict=True)
    ]
