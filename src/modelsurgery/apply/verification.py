"""Whether a model directory still holds what its manifest and journals say."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from modelsurgery.apply.journal import JournalEntry, StoredJournal, load_journals
from modelsurgery.apply.manifest import HEADER, Manifest, StoredPart, file_parts, read_manifest
from modelsurgery.apply.patching import wrong_tensors
from modelsurgery.checkpoint.directory import Checkpoint, is_file, open_checkpoint
from modelsurgery.checkpoint.place import Place, place_of
from modelsurgery.checkpoint.rows import Weights
from modelsurgery.checkpoint.weight_headers import header_sha256
from modelsurgery.errors import CheckpointError, JournalError, VerificationError
from modelsurgery.files.atomic import locked, sha256_file
from modelsurgery.files.object_store import refuse_url
from modelsurgery.files.progress import Progress, silent

OTHER_BYTES = "has other bytes than recorded"


@dataclass(frozen=True)
class Verification:
    """Result of `verify`.

    Attributes:
        directory: the model: its directory, or its GGUF file.
        tensors_checked: tensors compared in full.
        rows_checked: edited rows compared, in tensors that were not compared in full.
        tensors_unknown: tensors with no recorded hash, or with hashes of the edited rows only. An
            edit in place does not read the rest of the model.
        files_checked: files compared other than weights.
        wrong: tensors and files that differ from the record, and how.

    Example:
        >>> copy = apply_to_copy("model", [edit], "edited")
        >>> verify("edited").tensors_unknown
        0
    """

    directory: Path
    tensors_checked: int
    rows_checked: int
    tensors_unknown: int
    files_checked: int
    wrong: tuple[str, ...]


def verify(directory: Path | str, *, progress: Progress = silent) -> Verification:
    """Compare an edited model with its recorded hashes.

    Args:
        directory: an edited copy, or a model (directory or GGUF file) that was edited in place.
        progress: receives the number of compared tensors.

    Returns:
        What was compared, and what differs.

    Raises:
        VerificationError: nothing is recorded, or a weight file cannot be read.
        JournalError: a journal is damaged or missing.

    Example:
        >>> copy = apply_to_copy("model", [edit], "edited")
        >>> verify("edited").wrong
        ()
    """
    refuse_url(directory, "every byte is read to verify a model; download it and verify it there")
    place = place_of(directory)
    try:
        checkpoint = open_checkpoint(directory)
    except CheckpointError as error:
        raise VerificationError(str(error)) from error
    with locked(place.directory, shared=True):
        manifest = read_manifest(place.records)
        if not manifest.operations:
            raise VerificationError(
                f"{place}: no surgery is recorded here, so there is nothing to verify"
            )
        journals = _journals(place, manifest)
        entries = _last_entries(place, journals, checkpoint)
        recorded = dict(_recorded_parts(place, manifest))
        wrong = [*_wrong_files(manifest, place.directory)]
        wrong += _wrong_headers(place, journals, manifest)
        with (
            progress("tensors", len(recorded)) as advance,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            found = pool.map(StoredPart.sha256, recorded)
            for (part, expected), sha256 in zip(recorded.items(), found, strict=True):
                advance(1)
                if sha256 != expected:
                    name = part.name or "the header"
                    wrong.append(f"{name} in {part.path.name} {OTHER_BYTES}")
        wrong += _wrong_journals(journals)
        with Weights(checkpoint) as weights:
            for tensor in wrong_tensors(entries, weights, edited=True):
                wrong.append(f"{tensor}: edited rows were changed after the surgery")
    whole = {part.name for part in recorded} - {HEADER}
    return Verification(
        place.model,
        tensors_checked=len(whole),
        rows_checked=sum(len(entry.numbers) for entry in entries if entry.tensor not in whole),
        tensors_unknown=len(set(checkpoint.tensors) - whole),
        files_checked=len(manifest.files),
        wrong=tuple(dict.fromkeys(wrong)),
    )


def _journals(place: Place, manifest: Manifest) -> list[StoredJournal]:
    """The journals that count, oldest first."""
    journals = {one.name: one for one in load_journals(place.records)}
    for name in manifest.journals:
        if name not in journals:
            raise JournalError(f"{place}: journal {name} is missing, so the edit cannot be undone")
    return [journals[name] for name in manifest.journals]


def _last_entries(
    place: Place, journals: Sequence[StoredJournal], checkpoint: Checkpoint
) -> list[JournalEntry]:
    """The last journal entry of each matrix: earlier ones may have been edited over."""
    last = {}
    for entry in (entry for stored in journals for entry in stored.journal.entries):
        if not entry.fits(checkpoint.tensors):
            raise VerificationError(
                f"{place}: {entry.tensor} has another shape than at the time of the edit"
            )
        last[entry.view] = entry
    return list(last.values())


def _recorded_parts(place: Place, manifest: Manifest) -> Iterator[tuple[StoredPart, str]]:
    """Parts of weight files of which the manifest has a hash, with that hash."""
    for file, hashes in manifest.weights.items():
        path = place.path(file)
        if not is_file(path):
            raise VerificationError(f"{path} is missing")
        recorded = {HEADER: hashes.header, **hashes.tensors}
        for part in file_parts(path):
            if part.name in recorded:
                yield part, recorded.pop(part.name)
        if recorded:
            raise VerificationError(f"{path}: {next(iter(recorded))} is missing")


def _wrong_headers(
    place: Place, journals: Sequence[StoredJournal], manifest: Manifest
) -> Iterator[str]:
    """Of files of which an edit in place recorded the header, those in which it changed."""
    last = {name: header for one in journals for name, header in one.journal.files.items()}
    for name, header in last.items():
        if name in manifest.weights:
            continue
        path = place.path(name)
        try:
            is_same = header_sha256(path) == header
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}; fetch the model again") from error
        if not is_same:
            yield f"the header in {path.name} {OTHER_BYTES}"


def _wrong_journals(journals: Sequence[StoredJournal]) -> Iterator[str]:
    """Journals whose saved rows are damaged: what they should undo cannot be undone."""
    for stored in journals:
        try:
            for _ in stored.before():
                pass
        except JournalError as error:
            yield f"undo would fail: {error}"


def _wrong_files(manifest: Manifest, directory: Path) -> Iterator[str]:
    for name, expected in manifest.files.items():
        path = directory / name
        if not is_file(path):
            yield f"{name} is missing"
        elif sha256_file(path) != expected:
            yield f"{name} {OTHER_BYTES}"
