"""What a model in an object store has beside its weights: small files, journals, manifest."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from modelsurgery.apply.copying import OTHER_WEIGHTS
from modelsurgery.apply.journal import (
    JOURNAL_FILE,
    ROWS_FILE,
    SURGERY_DIRECTORY,
    StoredJournal,
    load_journal,
)
from modelsurgery.apply.manifest import (
    SURGERY_MANIFEST,
    Manifest,
    WeightHashes,
    read_manifest,
    write_manifest,
)
from modelsurgery.apply.patching import wrong_tensors
from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.header import header_sha256
from modelsurgery.checkpoint.place import is_plain_name
from modelsurgery.checkpoint.remote import INDEX_FILE, RemoteModel
from modelsurgery.checkpoint.rows import Weights
from modelsurgery.errors import CheckpointError, VerificationError
from modelsurgery.files.atomic import sha256_bytes
from modelsurgery.files.object_store import Folder
from modelsurgery.files.parallel import in_parallel

UNFINISHED = "surgery-unfinished.json"
LAST_FILES = (INDEX_FILE, "config.json")
# Larger ones are copied without being read, and the manifest has no hash of them.
MOST_HASHED_BYTES = 32 << 20
READ_AT_ONCE = 4
SENT_PART_BYTES = 16 << 20


@dataclass(frozen=True)
class Records:
    """What a model has beside its weights, on its way into a copy.

    Attributes:
        source, target: the model, and where the copy goes.
        staged: local directory, in which the next journal is written.
        before: the manifest of the source.
        carried: files to bring over.
        left_behind: other files with weights, and names that no directory can have.
    """

    source: RemoteModel
    target: Folder
    staged: Path
    before: Manifest
    carried: tuple[str, ...]
    left_behind: tuple[str, ...]

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, source: RemoteModel, target: Folder, staged: Path
    ) -> "Records":
        """Look at what there is, and see to it that the next journal gets the next number.

        Raises:
            CheckpointError: a journal that the manifest names is missing.
            VerificationError: the model was replaced after the last surgery that it records.
        """
        before = read_manifest(source.directory)
        for name in before.journals:
            (staged / SURGERY_DIRECTORY / name).mkdir(parents=True, exist_ok=True)
        for file in _journal_files(before):
            if file not in source.objects:
                raise CheckpointError(
                    f"{source.folder.url}: the manifest names {file}, which is missing; restore "
                    f"it, or delete {SURGERY_MANIFEST} to give up undoing"
                )
        if before.journals:
            _refuse_replaced(checkpoint, source, before.journals[-1])
        ours = {*checkpoint.files, SURGERY_MANIFEST, UNFINISHED}
        names = [one for one in sorted(source.objects) if one not in ours and not _is_hidden(one)]
        left = [one for one in names if _is_left_behind(one)]
        carried = [one for one in names if one not in set(left)]
        return cls(source, target, staged, before, tuple(carried), tuple(left))

    def write(self, stored: StoredJournal, weight_files: Sequence[str]) -> None:
        """Bring everything into the copy but the weights, the configuration last."""
        hashes = in_parallel(self._sha256, self.carried, READ_AT_ONCE)
        known = {name: one for name, one in zip(self.carried, hashes, strict=True) if one}
        write_manifest(self.staged, self._manifest(stored, known, weight_files))
        last = [name for name in LAST_FILES if name in self.carried]
        others = [name for name in self.carried if name not in last]
        in_parallel(self._copy, [*_journal_files(self.before), *others])
        for path in (stored.path / ROWS_FILE, stored.path / JOURNAL_FILE):
            self._send(path)
        self._send(self.staged / SURGERY_MANIFEST)
        for name in last:
            self._copy(name)

    def _copy(self, name: str) -> None:
        self.target.copy(name, self.source.folder, self.source.objects[name])

    def _send(self, path: Path) -> None:
        """Write a local file of `staged` to the same name."""
        name, size = path.relative_to(self.staged).as_posix(), path.stat().st_size
        if size <= SENT_PART_BYTES:
            self.target.put(name, path.read_bytes())
            return

        def content(start: int) -> bytes:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(step)

        step = max(SENT_PART_BYTES, -(-size // 5000))
        self.target.compose(name, [partial(content, one) for one in range(0, size, step)])

    def _sha256(self, name: str) -> str | None:
        size = self.source.objects[name].size
        return None if size > MOST_HASHED_BYTES else sha256_bytes(self.source.read(name, 0, size))

    def _manifest(
        self, stored: StoredJournal, files: dict[str, str], weight_files: Sequence[str]
    ) -> Manifest:
        """What is known of the copy: no tensor is read whole, but the source may know some."""
        after = self.before.after(stored)
        weights = {
            name: WeightHashes(
                header=header_sha256(self.source.directory / name),
                tensors=after.weights[name].tensors if name in after.weights else {},
            )
            for name in weight_files
        }
        return Manifest(operations=after.operations, files=files, weights=weights)


def _journal_files(manifest: Manifest) -> list[str]:
    """Names of the files of all journals, for a directory or a folder."""
    return [
        f"{SURGERY_DIRECTORY}/{name}/{file}"
        for name in manifest.journals
        for file in (ROWS_FILE, JOURNAL_FILE)
    ]


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _is_left_behind(name: str) -> bool:
    """Whether it holds other weights, or is called as no file of a directory can be: `a//b`."""
    is_inner = all(map(is_plain_name, name.split("/")))
    return Path(name).suffix.lower() in OTHER_WEIGHTS or not is_inner


def _refuse_replaced(checkpoint: Checkpoint, source: RemoteModel, journal: str) -> None:
    """Raise VerificationError unless the rows are as the last surgery left them."""
    stored = _journal(source, journal)
    entries = stored.journal.entries
    wrong = [one.tensor for one in entries if not one.fits(checkpoint.tensors)]
    with Weights(checkpoint) as weights:
        wrong = wrong or wrong_tensors(entries, weights, edited=True)
    if wrong:
        raise VerificationError(
            f"{source.folder.url}: rows of {wrong[0]} are not as surgery {journal} left them, "
            f"though it is recorded; the model was replaced: delete {SURGERY_MANIFEST} and "
            f"{SURGERY_DIRECTORY} there to forget that surgery, then try again"
        )


def _journal(source: RemoteModel, name: str) -> StoredJournal:
    """A journal in the store, without its rows, of which nothing is kept on this machine."""
    records = source.directory / SURGERY_DIRECTORY
    source.fetch_small(f"{SURGERY_DIRECTORY}/{name}/{JOURNAL_FILE}")
    try:
        (records / name / ROWS_FILE).touch()
        return load_journal(records / name)
    finally:
        shutil.rmtree(records)
