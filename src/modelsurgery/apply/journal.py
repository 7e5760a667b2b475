"""A journal: the original bytes of the rows that an edit changes, on disk before any of them does.

It is the way back. `DIR/.surgery/0001` holds `before.bin`, the rows one after the other, and
`journal.json`, which says where each belongs, with hashes of both states. It needs neither the edit
nor a layout to be read, and a damaged one is refused. DIR is the model's directory, or that of a
GGUF file's records, `FILE.gguf.surgery`.
"""

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelsurgery.apply.coverage import Coverage, measure_coverage
from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.header import StoredTensor, read_json_object
from modelsurgery.checkpoint.layouts import GateMatrix
from modelsurgery.checkpoint.place import RECORDS_SUFFIX, is_plain_name
from modelsurgery.checkpoint.rows import ROW_DTYPES, Rows, RowView
from modelsurgery.checkpoint.weight_headers import header_sha256
from modelsurgery.edit.changes import TensorChange
from modelsurgery.edit.edit import rows_sha256
from modelsurgery.errors import CheckpointError, JournalError
from modelsurgery.files.atomic import sha256_json, storage_errors, sync, write_json
from modelsurgery.files.provenance import Provenance

SURGERY_DIRECTORY = ".surgery"
JOURNAL_FILE = "journal.json"
ROWS_FILE = "before.bin"
STAGED_PREFIX = ".staged-"
FORMAT_VERSION = 1

Count = Annotated[int, Field(strict=True, ge=0, lt=2**62)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """What is written beside a model, as JSON; a key that is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class JournalEntry(Record):
    """Rows of one gate matrix.

    Attributes:
        tensor, dtype, rows, columns, offset, row_stride, column_stride: as in `RowView`.
        numbers: which rows, ascending.
        place: where their original bytes begin in `before.bin`.
        before_sha256: of those bytes.
        after_sha256: of the rows once edited.
    """

    tensor: str
    dtype: str
    rows: Count
    columns: Count
    offset: Count
    row_stride: Count
    column_stride: Count
    numbers: list[Count]
    place: Count
    before_sha256: Sha256
    after_sha256: Sha256

    @property
    def view(self) -> RowView:
        """Where the rows are."""
        return RowView(**{one.name: getattr(self, one.name) for one in fields(RowView)})

    def fits(self, tensors: Mapping[str, StoredTensor]) -> bool:
        """Whether its tensor is there, with the same type and all of the rows inside it."""
        stored = tensors.get(self.tensor)
        return stored is not None and self.view.fits(stored)

    @property
    def row_numbers(self) -> NDArray[np.int64]:
        """The same numbers, [k] int64."""
        return np.array(self.numbers, dtype=np.int64)

    @property
    def size_bytes(self) -> int:
        """Bytes of the rows."""
        return len(self.numbers) * self.columns * ROW_DTYPES[self.dtype].itemsize


class Journal(Record):
    """What one edit changed in a model directory, and what was there before."""

    format: int  # version of this form
    files: dict[str, Sha256]  # SHA-256 of the header of every weight file that changes, by name
    entries: list[JournalEntry]  # rows by matrix
    description: list[dict[str, Any]]  # of the edits, for people
    coverage: dict[str, int]  # what changed, of how much
    provenance: dict[str, Any]  # versions
    # The text of the directory's manifest before, None if there was none.
    manifest_before: str | None

    @property
    def tensors(self) -> set[str]:
        """Names of the tensors that have changed rows."""
        return {entry.tensor for entry in self.entries}

    @property
    def row_count(self) -> int:
        """Number of changed rows."""
        return sum(len(entry.numbers) for entry in self.entries)


@dataclass(frozen=True)
class StoredJournal:
    """A journal with its directory, `DIR/.surgery/0001`."""

    path: Path
    journal: Journal

    @property
    def name(self) -> str:
        """Its number, `0001`."""
        return self.path.name

    def before(self, view: RowView | None = None) -> Iterator[tuple[JournalEntry, Rows]]:
        """Original rows [k, columns] of each entry (of a matrix), checked against their hashes.

        Raises:
            JournalError: `before.bin` does not hold them.
        """
        with (self.path / ROWS_FILE).open("rb") as file:
            held = os.fstat(file.fileno()).st_size
            for entry in self.journal.entries:
                if view not in (None, entry.view):
                    continue
                file.seek(min(entry.place, held))
                rows = np.frombuffer(file.read(min(entry.size_bytes, held)), dtype=np.uint8)
                if len(rows) != entry.size_bytes or rows_sha256(rows) != entry.before_sha256:
                    raise JournalError(
                        f"{self.path / ROWS_FILE}: the saved rows of {entry.tensor} do not match "
                        "their hash; the journal is damaged and cannot be used to undo, fetch "
                        "the model again"
                    )
                yield entry, rows.view(ROW_DTYPES[entry.dtype]).reshape(-1, entry.columns)


def write_journal(
    directory: Path,
    checkpoint: Checkpoint,
    gates: Sequence[GateMatrix],
    changes: Iterable[TensorChange],
    description: list[dict[str, Any]],
    manifest_before: str | None,
) -> tuple[StoredJournal, Coverage]:
    """Write the next journal of `directory`, of changes to the tensors of `checkpoint`.

    It is written beside its final place, flushed to the disk and renamed: from then on it counts.
    When a change raises, nothing of it is left.

    Raises:
        NothingChangedError: no byte would change.
    """
    parent = directory / SURGERY_DIRECTORY
    taken = [int(one.name) for one in _journal_paths(directory)]
    path = parent / f"{max(taken, default=0) + 1:04d}"
    staged = parent / f"{STAGED_PREFIX}{path.name}"
    entries: list[JournalEntry] = []
    with storage_errors(staged):
        try:
            staged.mkdir(parents=True)
            with (staged / ROWS_FILE).open("xb") as file:
                recorded = _recorded(changes, gates, entries, file)
                coverage = measure_coverage(recorded, checkpoint, gates)
                file.flush()
                os.fsync(file.fileno())
            files = sorted({checkpoint.tensors[entry.tensor].file for entry in entries})
            journal = Journal(
                format=FORMAT_VERSION,
                files={name: header_sha256(checkpoint.place.path(name)) for name in files},
                entries=entries,
                description=description,
                coverage=asdict(coverage),
                provenance=Provenance().to_json(),
                manifest_before=manifest_before,
            )
            content = journal.model_dump()
            write_json(staged / JOURNAL_FILE, {**content, "sha256": sha256_json(content)})
            staged.rename(path)
            sync(parent)
            sync(directory)
            if directory.name.endswith(RECORDS_SUFFIX):  # it may be new too
                sync(directory.parent)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            _remove_if_empty(parent)
            raise
    return StoredJournal(path, journal), coverage


def _recorded(
    changes: Iterable[TensorChange],
    gates: Sequence[GateMatrix],
    entries: list[JournalEntry],
    file: BinaryIO,
) -> Iterator[TensorChange]:
    """The same changes, each written down before it is passed on; rows that stay are left out."""
    views = {gate.address: gate.view for gate in gates}
    for change in changes:
        moved = change.bytes_moved > 0
        if moved.any():
            before, after, known = change.before, change.after, change.before_sha256
            if not moved.all():
                before, after, known = before[moved], after[moved], None
            entry = JournalEntry(
                **asdict(views[change.address]),
                numbers=change.rows[moved].tolist(),
                place=file.tell(),
                before_sha256=known or rows_sha256(before),
                after_sha256=rows_sha256(after),
            )
            entries.append(entry)
            file.write(np.ascontiguousarray(before).view(np.uint8).reshape(-1).data)
        yield change


def load_journals(directory: Path) -> list[StoredJournal]:
    """All journals of a model directory, oldest first.

    Raises:
        JournalError: one is damaged.
    """
    return [load_journal(path) for path in _journal_paths(directory)]


def load_journal(path: Path) -> StoredJournal:
    """Read a journal and check everything that it says but the rows themselves.

    Raises:
        JournalError: missing, damaged, hostile, or of a later version.
    """
    for part in (path, path / JOURNAL_FILE, path / ROWS_FILE):
        # A link leads elsewhere, and reading from a pipe would wait for ever.
        if part.is_symlink() or not (part.is_dir() if part == path else part.is_file()):
            raise JournalError(
                f"{part} is missing or is not a valid journal file; the journal cannot be used to "
                "undo"
            )
    try:
        content = read_json_object(path / JOURNAL_FILE)
        claimed = content.pop("sha256", None)
        if content.get("format") != FORMAT_VERSION:
            raise JournalError(
                f"{path}: a journal of format {content.get('format')!r}; this version reads "
                f"format {FORMAT_VERSION}, update modelsurgery"
            )
        if claimed != sha256_json(content):
            raise JournalError(f"{path}: the journal is damaged, its hash does not match")
        journal = Journal.model_validate(content)
    except (OSError, ValueError, CheckpointError, ValidationError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise JournalError(f"{path}: not a readable journal ({reason})") from error
    _check(path, journal)
    return StoredJournal(path, journal)


def copy_journal(stored: StoredJournal, directory: Path) -> None:
    """Carry a journal to a copy of its model directory, and nothing else that lies beside it."""
    destination = directory / SURGERY_DIRECTORY / stored.name
    destination.mkdir(parents=True)
    for name in (ROWS_FILE, JOURNAL_FILE):
        shutil.copyfile(stored.path / name, destination / name)


def remove_journal(stored: StoredJournal) -> None:
    """Take a journal away, its name first."""
    removed = stored.path.with_name(f"{STAGED_PREFIX}removed-{stored.name}")
    stored.path.rename(removed)
    sync(removed.parent)
    shutil.rmtree(removed)
    _remove_if_empty(stored.path.parent)


def sweep(directory: Path) -> None:
    """Remove what a killed process left of journals that never counted, or no longer do."""
    parent = directory / SURGERY_DIRECTORY
    _refuse_link(parent)
    for path in parent.glob(f"{STAGED_PREFIX}*"):
        if path.is_symlink() or not path.is_dir():
            raise JournalError(f"{path} is not a directory, so it is not a journal; delete it")
        shutil.rmtree(path)
    _remove_if_empty(parent)


def _remove_if_empty(parent: Path) -> None:
    """Remove the directory of journals if there is none, and that of a GGUF file's records."""
    for directory in (parent, parent.parent):
        ours = directory is parent or directory.name.endswith(RECORDS_SUFFIX)
        if ours and directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()


def _journal_paths(directory: Path) -> list[Path]:
    parent = directory / SURGERY_DIRECTORY
    _refuse_link(parent)
    if directory.name.endswith(RECORDS_SUFFIX):
        _refuse_link(directory)
    return sorted(parent.glob("[0-9]" * 4))


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise JournalError(f"{path} is a symbolic link; expected a directory that a surgery made")


def _check(path: Path, journal: Journal) -> None:
    """Refuse what no journal of ours says."""
    for name in journal.files:
        if not is_plain_name(name):
            raise JournalError(f"{path}: names the file {name!r}; expected a plain name")
    for entry in journal.entries:
        numbers = entry.row_numbers
        sound = (
            entry.dtype in ROW_DTYPES
            and len(numbers) > 0
            and bool((np.diff(numbers) > 0).all())
            and int(numbers[-1]) < entry.rows
        )
        if not sound:
            raise JournalError(f"{path}: the rows of {entry.tensor!r} contradict each other")
    claimed = (journal.coverage.get("tensors_edited"), journal.coverage.get("rows_edited"))
    if claimed != (len(journal.entries), journal.row_count):
        raise JournalError(f"{path}: its entries do not match the edit that it describes")
    ordered = sorted(journal.entries, key=lambda entry: (entry.tensor, entry.offset))
    for entry, following in itertools.pairwise(ordered):
        if entry.tensor == following.tensor and entry.view.stop > following.offset:
            raise JournalError(f"{path}: two entries share elements of {entry.tensor!r}")


def journal_json(stored: StoredJournal) -> dict[str, Any]:
    """A journal for people: everything but the numbers of rows."""
    journal = stored.journal
    rows: Counter[str] = Counter()
    for entry in journal.entries:
        rows[entry.tensor] += len(entry.numbers)
    return {
        "kind": "journal",
        "journal": stored.name,
        "edits": journal.description,
        "coverage": journal.coverage,
        "rows_by_tensor": dict(rows),
        "files": sorted(journal.files),
        "bytes": sum(entry.size_bytes for entry in journal.entries),
        "provenance": journal.provenance,
    }


def is_journal(path: Path) -> bool:
    """Whether a path is a journal's directory or its description."""
    return (path / JOURNAL_FILE).is_file() or path.name == JOURNAL_FILE
