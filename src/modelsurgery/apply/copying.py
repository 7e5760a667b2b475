"""An edited copy of a model, in which only the chosen rows differ.

Loads no model. The copy is staged beside its destination, patched, read back and renamed; the
source is only read. It carries a journal, so that `surgery undo` gives back the base model even
when the source is gone.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from modelsurgery.apply.arrival import Arrival
from modelsurgery.apply.coverage import Coverage
from modelsurgery.apply.journal import (
    SURGERY_DIRECTORY,
    Journal,
    StoredJournal,
    copy_journal,
    load_journal,
)
from modelsurgery.apply.manifest import (
    SURGERY_MANIFEST,
    Manifest,
    StoredPart,
    WeightHashes,
    file_parts,
    read_manifest,
    write_manifest,
)
from modelsurgery.apply.patching import Surgery
from modelsurgery.apply.recognition import refuse_replaced
from modelsurgery.apply.staging import refuse_existing_gguf, staged_place
from modelsurgery.checkpoint.directory import Checkpoint, open_checkpoint
from modelsurgery.checkpoint.place import GGUF_SUFFIX, Place, is_gguf, place_of
from modelsurgery.checkpoint.rows import Weights
from modelsurgery.edit.edit import Edit
from modelsurgery.errors import CheckpointError, RecipeError
from modelsurgery.files.atomic import (
    clone_file,
    copy_file,
    link_file,
    locked,
    refuse_existing,
    sha256_file,
)
from modelsurgery.files.object_store import refuse_url
from modelsurgery.files.progress import Progress, silent

# Other copies of the weights: left as they are they would hold the unedited model.
OTHER_WEIGHTS = {
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".gguf",
    ".onnx",
    ".npz",
}


@dataclass(frozen=True)
class EditedCopy:
    """Result of `apply_to_copy`.

    Attributes:
        directory: the edited model: its directory, or its GGUF file.
        coverage: how much of the model changed.
        shared_files: weight files that take no space of their own, because they are hard links to
            the source or share its blocks.
        left_behind: files of the source that were not copied, such as the same weights in another
            format, which would still hold the base model.
        arrival: of quantized types, by name, how much of the edits arrived in their rows.

    Example:
        >>> apply_to_copy("model", [edit], "edited-model").coverage.rows_edited == edit.row_count
        True
    """

    directory: Path
    coverage: Coverage
    shared_files: tuple[str, ...]
    left_behind: tuple[str, ...]
    arrival: dict[str, Arrival] = field(default_factory=dict)


def apply_to_copy(
    source: Path | str,
    edits: Sequence[Edit],
    destination: Path | str,
    *,
    real_copies: bool = False,
    content_of: Callable[[Path, str], bytes | None] | None = None,
    progress: Progress = silent,
) -> EditedCopy:
    """Write an edited copy of a model.

    Tokenizer, configuration and chat template are copied too. Weight files without changes are
    hard-linked. The others share unchanged blocks with the source if the file system can do that.
    The copy of a GGUF file is a file, with its journal in a directory beside it.

    Args:
        source: model directory with one or several safetensors files, or a GGUF file.
        edits: edits made for this model. Edits of the same row are added up.
        destination: directory to create; of a GGUF file, the file (`NAME.gguf`).
        real_copies: share no files or blocks with the source.
        content_of: called with the source and the name of each file that holds no weights. Returns
            the content for the copy, or None to leave the file out. By default all are copied
            unchanged.
        progress: receives the megabytes that are copied and hashed.

    Returns:
        The copy and what changed in it.

    Raises:
        EditMismatchError: the weights are not those that an edit was made for.
        NothingChangedError: no byte would change.
        OutputExistsError: `destination` exists.
        RecipeError: the destination of a GGUF file has another ending.
        StorageError: the disk is full or cannot be written.
        VerificationError: the disk returned bytes other than those written, or the source was
            replaced after an edit that is recorded beside it.

    Example:
        >>> copy = apply_to_copy("model", [edit], "edited")
        >>> undo("edited").rows_restored == copy.coverage.rows_edited
        True
    """
    for name in (source, destination):
        refuse_url(
            name,
            "a copy on this machine needs its source there; use --out s3://… for one "
            "in the same object store, or download the model first",
        )
    checkpoint = open_checkpoint(source)
    target = _target(checkpoint, Path(destination))
    with locked(checkpoint.directory, shared=True):
        before = read_manifest(checkpoint.place.records)
        surgery = Surgery.of(checkpoint, edits)
        small, left_behind = _other_files(checkpoint)
        with staged_place(target) as staged:
            _carry_journals(checkpoint.place, staged.records, before)
            stored, coverage = surgery.write_journal(staged.records)
            hashes, shared = _copy_weights(
                checkpoint, staged, stored.journal, real_copies=real_copies, progress=progress
            )
            _patch(surgery, staged, stored)
            # config.json is among them: what is staged cannot be loaded before.
            came = _bring_others(checkpoint.directory, staged.directory, small, content_of)
            _hash_changed(hashes, staged, stored.journal)
            manifest = Manifest(
                operations=before.after(stored).operations,
                files={name: sha256_file(staged.directory / name) for name in came},
                weights={name: WeightHashes.of(parts) for name, parts in hashes.items()},
            )
            write_manifest(staged.records, manifest)
    left = tuple(sorted({*left_behind, *small} - {*came}))
    return EditedCopy(target.model, coverage, shared, left, surgery.arrival.by_type())


def _target(checkpoint: Checkpoint, destination: Path) -> Place:
    """Where the copy goes; nothing may be there."""
    if not checkpoint.place.is_gguf:
        refuse_existing(destination, for_directory=True)
        return Place(destination)
    if destination.suffix.lower() != GGUF_SUFFIX or destination.is_dir():
        raise RecipeError(
            f"--out {destination}; expected the name of a file that ends in {GGUF_SUFFIX}, because "
            f"{checkpoint.place} is one"
        )
    named, splits = place_of(destination), checkpoint.place.splits
    if named.splits not in (0, splits):
        raise RecipeError(
            f"--out {destination} is the name of a file of {named.splits}, and {checkpoint.place} "
            f"is of {splits or 1}; expected NAME{GGUF_SUFFIX}"
        )
    target = Place(destination.parent, named.stem, splits, named.ending)
    refuse_existing_gguf(target)
    return target


def _patch(surgery: Surgery, staged: Place, stored: StoredJournal) -> None:
    """Patch the copied files."""
    gguf = staged if staged.is_gguf else None
    copied = replace(surgery.checkpoint, directory=staged.directory, gguf=gguf)
    with Weights(copied, writable=True) as weights:
        surgery.patch(stored, weights)


def _other_files(checkpoint: Checkpoint) -> tuple[list[str], list[str]]:
    """Files other than the weights: those to carry along, those to leave behind."""
    carried: list[str] = []
    left_behind: list[str] = []
    if checkpoint.place.is_gguf:  # what lies beside it belongs to other models
        return [], []
    for path in sorted(checkpoint.directory.rglob("*")):
        name = path.relative_to(checkpoint.directory)
        hidden = any(part.startswith(".") for part in name.parts)
        if hidden or not path.is_file() or str(name) in {*checkpoint.files, SURGERY_MANIFEST}:
            continue
        if str(name).encode(errors="replace").decode() != str(name):
            raise CheckpointError(
                f"{checkpoint.directory}: the file name {str(name)!r} is not UTF-8 and cannot be "
                "recorded in the manifest; rename the file"
            )
        other_weights = path.suffix.lower() in OTHER_WEIGHTS or is_gguf(path)
        (left_behind if other_weights else carried).append(str(name))
    return carried, left_behind


def _carry_journals(source: Place, staged: Path, manifest: Manifest) -> None:
    for name in manifest.journals:
        journal = source.records / SURGERY_DIRECTORY / name
        if not journal.is_dir():
            raise CheckpointError(
                f"{source}: the manifest names journal {name}, which is missing; restore "
                f"{SURGERY_DIRECTORY}, or delete {SURGERY_MANIFEST} to give up undoing"
            )
        last = load_journal(journal)
        copy_journal(last, staged)
        if name == manifest.journals[-1]:
            refuse_replaced(source, last)


def _bring_others(
    source: Path,
    staged: Path,
    names: Sequence[str],
    content_of: Callable[[Path, str], bytes | None] | None,
) -> list[str]:
    """Bring files other than the weights over; the names of those that came."""
    came = []
    for name in names:
        content = None if content_of is None else content_of(source, name)
        if content_of is not None and content is None:
            continue
        came.append(name)
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            shutil.copyfile(source / name, staged / name)
        else:
            (staged / name).write_bytes(content)
    return came


def _copy_weights(
    checkpoint: Checkpoint,
    staged: Place,
    journal: Journal,
    *,
    real_copies: bool,
    progress: Progress,
) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    """Bring all weight files over, and hash of them what will stay as it is.

    Copying and hashing share the cores: the largest file is begun first, hashes fill the gaps.

    Returns:
        SHA-256 by file and part, and the files that are shared with the source.
    """
    place, changed = checkpoint.place, journal.tensors
    size_of = {name: place.path(name).stat().st_size for name in checkpoint.files}
    names = sorted(checkpoint.files, key=lambda name: (-size_of[name], name))
    parts = [
        (name, part)
        for name in names
        for part in file_parts(place.path(name))
        if part.name not in changed
    ]
    # Steps are megabytes: a file takes as long as hundreds of tensors.
    steps = [size_of[name] // 10**6 for name in names] + [part.size // 10**6 for _, part in parts]
    with (
        progress("megabytes copied and hashed", sum(steps)) as advance,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        bring = partial(_bring, checkpoint, staged, journal=journal, real_copies=real_copies)
        copies = [pool.submit(bring, name) for name in names]
        hashed = [pool.submit(part.sha256) for _, part in parts]
        try:
            megabytes: dict[Future[Any], int] = dict(zip([*copies, *hashed], steps, strict=True))
            for future in as_completed(megabytes):
                future.result()
                advance(megabytes[future])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    hashes: dict[str, dict[str, str]] = {name: {} for name in checkpoint.files}
    for (name, part), sha256 in zip(parts, hashed, strict=True):
        hashes[name][part.name] = sha256.result()
    shared = {name for name, copy in zip(names, copies, strict=True) if copy.result()}
    return hashes, tuple(name for name in checkpoint.files if name in shared)


def _bring(
    checkpoint: Checkpoint, staged: Place, name: str, *, journal: Journal, real_copies: bool
) -> bool:
    """Copy a weight file, or share it if it may be; whether it is shared."""
    source, destination = checkpoint.place.path(name), staged.path(name)
    share = clone_file if name in journal.files else link_file
    if not real_copies and share(source, destination):
        return True
    copy_file(source, destination)
    return False


def _hash_changed(hashes: dict[str, dict[str, str]], staged: Place, journal: Journal) -> None:
    """Add the hashes of the tensors that were patched."""
    changed = journal.tensors
    parts = [
        (name, part)
        for name in journal.files
        for part in file_parts(staged.path(name))
        if part.name in changed
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(StoredPart.sha256, [part for _, part in parts])
        for (name, part), sha256 in zip(parts, found, strict=True):
            hashes[name][part.name] = sha256
