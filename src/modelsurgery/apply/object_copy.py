"""An edited copy of a model in an object store, made by the server.

The client reads the rows that change, and sends them, the journal and the manifest; everything
else is copied where it is (`apply/parts.py`). The steps, each of which a killed process may be the
last to have begun:

1. An object that says what is being made. Until it is deleted, the same command goes on here.
2. Weight files; an object appears whole or not at all.
3. Their headers and changed rows are read back.
4. Other files, journal and manifest.
5. The configuration, last: nothing can load the copy before. Then the object of step 1 goes.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from modelsurgery.apply.composing import SCRATCH, Composer
from modelsurgery.apply.coverage import Coverage
from modelsurgery.apply.journal import StoredJournal
from modelsurgery.apply.object_records import UNFINISHED, Records
from modelsurgery.apply.parts import FilePart, Stretch, file_parts_of, near_together
from modelsurgery.apply.patching import Surgery, wrong_tensors
from modelsurgery.checkpoint.directory import Checkpoint, open_checkpoint
from modelsurgery.checkpoint.remote import RemoteModel
from modelsurgery.checkpoint.rows import Weights, stretches
from modelsurgery.edit.edit import Edit
from modelsurgery.errors import (
    OutputExistsError,
    RecipeError,
    StorageError,
    SurgeryError,
    VerificationError,
)
from modelsurgery.files.atomic import sha256_json, storage_errors
from modelsurgery.files.object_store import Folder, is_url
from modelsurgery.files.parallel import in_parallel
from modelsurgery.files.progress import Progress, silent

MADE_FROM = "modelsurgery"  # key of the metadata of weight files


@dataclass(frozen=True)
class CopiedObjects:
    """Result of `apply_to_object_store`.

    Attributes:
        url: where the edited model is.
        coverage: how much of the model changed.
        left_behind: other files with weights, which were not copied.
        kept: weight files that an interrupted run had made.
        bytes_received, bytes_sent: bytes of objects that this process read and wrote.
        requests: number of requests.

    Example:
        >>> source, target = "s3://models/llama", "s3://models/edited"
        >>> done = apply_to_object_store(source, [edit], target)  # doctest: +SKIP
        >>> done.kept  # doctest: +SKIP
        ()
    """

    url: str
    coverage: Coverage
    left_behind: tuple[str, ...]
    kept: tuple[str, ...]
    bytes_received: int
    bytes_sent: int
    requests: int


def apply_to_object_store(
    source: Path | str,
    edits: Sequence[Edit],
    destination: Path | str,
    *,
    progress: Progress = silent,
) -> CopiedObjects:
    """Make an edited copy of a model in an object store, without moving it through this machine.

    The copy holds a journal and a manifest: once downloaded, `undo` and `verify` work on it. Parts
    that the server copied are not read back. After an error, Ctrl-C or a kill, the same call
    continues with the first weight file that is missing.

    Args:
        source: `s3://BUCKET/FOLDER` with `config.json` and safetensors weights.
        edits: edits made for this model. Edits of the same row are added up.
        destination: such a URL on the same server, where nothing is.
        progress: receives the number of parts made.

    Returns:
        What changed, and what that moved.

    Raises:
        EditMismatchError: the weights are not those that an edit was made for.
        NothingChangedError: no byte would change.
        OutputExistsError: something is at the destination.
        RecipeError: one of both is not a URL, or boto3 is missing.
        StorageError: the server cannot be reached or refuses.
        VerificationError: the server returned bytes other than those sent. The copy is deleted.

    Example:
        >>> source, target = "s3://models/llama", "s3://models/edited"
        >>> done = apply_to_object_store(source, [edit], target)  # doctest: +SKIP
        >>> done.coverage.rows_edited == edit.row_count  # doctest: +SKIP
        True
    """
    for name in (source, destination):
        if not is_url(name):
            raise RecipeError(
                f"{name} is on this machine and the other model in an object store; a copy is made "
                "by one server: download or upload the model first, then edit it there"
            )
    target = Folder(destination)
    if target.is_inside(Folder(source)):
        raise RecipeError(
            f"{target.url} is inside the model {Folder(source).url}; give --out a folder beside it"
        )
    checkpoint = open_checkpoint(source)
    assert checkpoint.remote is not None
    with checkpoint.remote.named(), TemporaryDirectory(prefix="surgery-") as staged:
        return _Copy.prepared(checkpoint, edits, target, Path(staged)).made(progress)


@dataclass(frozen=True)
class _Copy:
    """A copy to be made: everything that this machine knows and the server has yet to be sent.

    Attributes:
        checkpoint: the model with its changed rows, edited, in the local directory.
        source, target: the model in the store, and where the copy goes.
        stored, coverage: the journal, and how much changes.
        records: what there is beside the weights.
    """

    checkpoint: Checkpoint
    source: RemoteModel
    target: Folder
    stored: StoredJournal
    coverage: Coverage
    records: Records

    @classmethod
    def prepared(
        cls, checkpoint: Checkpoint, edits: Sequence[Edit], target: Folder, staged: Path
    ) -> "_Copy":
        """Fetch the rows that change, write the journal, and edit them in the local directory."""
        source = checkpoint.remote
        assert source is not None
        local = replace(checkpoint, remote=None)
        surgery = replace(Surgery.of(checkpoint, edits), checkpoint=local)
        records = Records.of(checkpoint, source, target, staged)
        for file, wanted in _rows_of(surgery).items():
            source.fetch(file, wanted)
        stored, coverage = surgery.write_journal(staged)
        with storage_errors(source.directory.parent), Weights(local, writable=True) as weights:
            surgery.patch(stored, weights)
        return cls(local, source, target, stored, coverage, records)

    def made(self, progress: Progress) -> CopiedObjects:
        """Have the server make the copy."""
        kept = self._begin()
        try:
            self._make_weights(kept, progress)
            self._read_back()
            self._refuse_changed()
            self.records.write(self.stored, self.checkpoint.files)
        except BaseException as error:
            with suppress(SurgeryError):
                self._tidy(everything=isinstance(error, VerificationError))
            raise
        self.target.delete([(UNFINISHED, None)])
        both = (self.source.folder.traffic, self.target.traffic)
        return CopiedObjects(
            self.target.url,
            self.coverage,
            self.records.left_behind,
            kept,
            bytes_received=sum(one.received for one in both),
            bytes_sent=sum(one.sent for one in both),
            requests=sum(one.requests for one in both),
        )

    @property
    def _identity(self) -> str:
        """Differs for another source, another edit, and another state of the source."""
        etags = {name: self.source.objects[name].etag for name in self.checkpoint.files}
        rows = [one.after_sha256 for one in self.stored.journal.entries]
        return sha256_json([self.source.folder.url, etags, rows])

    def _begin(self) -> tuple[str, ...]:
        """Claim the destination; the weight files that an interrupted run of the same made."""
        there = self.target.objects()
        claim = {"source": self.source.folder.url, MADE_FROM: self._identity}
        if not there:
            self.target.put(UNFINISHED, json.dumps(claim).encode(), new=True)
            return ()
        if UNFINISHED not in there:
            raise OutputExistsError(
                f"{self.target.url} already exists; choose another --out or delete it"
            )
        found = self.target.read(UNFINISHED, 0, there[UNFINISHED].size, there[UNFINISHED].etag)
        if found != json.dumps(claim).encode():
            raise OutputExistsError(
                f"{self.target.url} holds the unfinished copy of another surgery; complete that "
                "with its own command, delete it, or choose another --out"
            )
        self._tidy()
        files = [name for name in self.checkpoint.files if name in there]
        made = in_parallel(lambda name: self.target.metadata(name).get(MADE_FROM), files)
        return tuple(name for name, one in zip(files, made, strict=True) if one == self._identity)

    def _tidy(self, *, everything: bool = False) -> None:
        """Abort uploads and delete scratch objects, or all that was made."""
        self.target.abort_uploads()
        self.target.delete(self.target.versions(SCRATCH))
        if everything:
            self.target.delete((name, None) for name in self.target.objects())

    def _make_weights(self, kept: Sequence[str], progress: Progress) -> None:
        changed = self._changed()
        parts: dict[str, list[FilePart]] = {
            name: file_parts_of(self.source.objects[name].size, changed.get(name, ()))
            for name in self.checkpoint.files
            if name not in kept
        }
        metadata = {MADE_FROM: self._identity}
        with progress("parts", sum(map(len, parts.values()))) as advance:
            for name, of_file in parts.items():
                stored = self.source.objects[name]
                if name not in changed:
                    self.target.copy(name, self.source.folder, stored, metadata)
                    advance(len(of_file))
                else:
                    composer = Composer(self.source, self.target, name)
                    composer.compose(of_file, metadata, lambda: advance(1))

    def _changed(self) -> dict[str, list[Stretch]]:
        """Where the journal's rows are, by file."""
        tensors = self.checkpoint.tensors
        found: dict[str, list[Stretch]] = defaultdict(list)
        for entry in self.stored.journal.entries:
            stored = tensors[entry.tensor]
            found[stored.file] += stretches(stored, entry.view, entry.row_numbers)
        return found

    def _read_back(self) -> None:
        """Raise VerificationError where sizes, headers or changed rows of the copy differ."""
        there = self.target.objects()
        copy = RemoteModel(self.target, there, self.source.directory)
        checkpoint = replace(self.checkpoint, remote=copy)
        for name in checkpoint.files:
            header = min(one.start for one in checkpoint.tensors.values() if one.file == name)
            with (self.source.directory / name).open("rb") as file:
                expected = file.read(header)
            same_size = name in there and there[name].size == self.source.objects[name].size
            if not same_size or copy.read(name, 0, header) != expected:
                raise VerificationError(
                    f"{self.target.url}/{name}: has another size or header than its source; the "
                    "copy was deleted; check the server"
                )
        with Weights(checkpoint) as weights:
            if wrong := wrong_tensors(self.stored.journal.entries, weights, edited=True):
                raise VerificationError(
                    f"{self.target.url}: rows of {wrong[0]} have other bytes than were sent "
                    f"({len(wrong)} such tensors); the copy was deleted; check the server"
                )

    def _refuse_changed(self) -> None:
        """Raise StorageError if the source changed: not every server heeds a copy's condition."""
        now = self.source.folder.objects()
        for name in (*self.checkpoint.files, *self.records.carried):
            if now.get(name) != self.source.objects[name]:
                raise StorageError(
                    f"{self.source.folder.url}/{name} changed while it was copied; delete "
                    f"{self.target.url}, and try again when nothing writes to the model"
                )


def _rows_of(surgery: Surgery) -> dict[str, list[Stretch]]:
    """Where the rows are that the edits name, by file; rows that do not exist are left out."""
    gates = {gate.address: gate for gate in surgery.gates}
    found: dict[str, list[Stretch]] = defaultdict(list)
    for update in (update for edit in surgery.edits for update in edit.updates):
        gate = gates.get(update.address)
        if gate is not None and (gate.rows, gate.hidden_size) == update.shape:
            stored = surgery.checkpoint.tensors[gate.tensor]
            found[stored.file] += stretches(stored, gate.view, update.rows.astype(np.int64))
    return {file: near_together(one) for file, one in found.items()}
