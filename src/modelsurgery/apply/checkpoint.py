"""An edit on disk: a copy of a model directory in which only the chosen rows differ.

Loads no model. The copy is staged beside its destination, patched, read back and compared, and
renamed; the source is only read.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from modelsurgery.apply.coverage import Coverage, measure_coverage
from modelsurgery.checkpoint import DTYPES, Checkpoint, open_checkpoint, row_writer
from modelsurgery.edit import Edit, TensorChange, read_chosen_rows, tensor_changes
from modelsurgery.errors import VerificationError
from modelsurgery.files import sha256_file, staged_directory, write_json
from modelsurgery.layouts import find_gate_matrices
from modelsurgery.progress import Progress, silent
from modelsurgery.provenance import provenance

MANIFEST_FILE = "surgery.json"
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
    """What `apply_to_copy` wrote.

    Attributes:
        directory: the edited model.
        coverage: what changed, of how much.
        left_behind: files of the source that were not carried along: other copies of the
            weights, which would still hold the base model.
    """

    directory: Path
    coverage: Coverage
    left_behind: tuple[str, ...]


def apply_to_copy(
    source: Path | str,
    edits: Sequence[Edit],
    destination: Path | str,
    *,
    progress: Progress = silent,
) -> EditedCopy:
    """Write a copy of a model directory with edited gate rows.

    Tokenizer, configuration and chat template are carried along; `surgery.json` in the copy
    lists what changed and the SHA-256 of every file.

    Args:
        source: model directory with one or several safetensors files.
        edits: edits made for it; on one row they are summed.
        destination: directory that is not there yet.
        progress: is told of files copied.

    Raises:
        EditMismatchError: the weights are not those that an edit was made for.
        NothingChangedError: no byte would change.
        OutputExistsError: there is something at `destination`.
        StorageError: the disk is full or cannot be written.
        VerificationError: the disk gave back other bytes than were written.
    """
    checkpoint = open_checkpoint(source)
    destination = Path(destination)
    gates = find_gate_matrices(checkpoint)
    changes = tuple(tensor_changes(edits, partial(read_chosen_rows, checkpoint)))
    coverage = measure_coverage(
        changes,
        tensors_found=len(gates),
        rows_found=sum(gate.rows for gate in gates),
        bytes_total=checkpoint.size_bytes,
    )
    carried, left_behind = _files(checkpoint)
    with staged_directory(destination) as staged:
        with progress("copy", len(carried)) as advance:
            for name in carried:
                _copy(checkpoint.directory / name, staged / name)
                advance(1)
        for change in changes:
            _patch(checkpoint, staged, change)
        _verify(staged, changes)
        write_json(staged / MANIFEST_FILE, _manifest(staged, edits, changes, coverage))
    return EditedCopy(destination, coverage, left_behind)


def _files(checkpoint: Checkpoint) -> tuple[tuple[str, ...], tuple[str, ...]]:
    carried = list(checkpoint.files)
    left_behind: list[str] = []
    for path in sorted(checkpoint.directory.rglob("*")):
        name = path.relative_to(checkpoint.directory)
        hidden = any(part.startswith(".") for part in name.parts)
        if hidden or not path.is_file() or str(name) in {*checkpoint.files, MANIFEST_FILE}:
            continue
        other_weights = path.suffix in OTHER_WEIGHTS
        (left_behind if other_weights else carried).append(str(name))
    return tuple(carried), tuple(left_behind)


def _copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)


def _patch(checkpoint: Checkpoint, staged: Path, change: TensorChange) -> None:
    stored = checkpoint.tensors[change.tensor]
    row_bytes = stored.shape[1] * DTYPES[stored.dtype].itemsize
    with row_writer(staged / stored.file) as write:
        content = change.after.contiguous().view(torch.uint8).numpy()
        for row, row_content in zip(change.rows.tolist(), content, strict=True):
            write(stored.start + row * row_bytes, row_content.tobytes())


def _verify(staged: Path, changes: Sequence[TensorChange]) -> None:
    written = open_checkpoint(staged)
    for change in changes:
        for row, expected in zip(change.rows.tolist(), change.after, strict=True):
            found = written.read_rows(change.tensor, row, row + 1)[0]
            if not found.view(torch.uint8).equal(expected.view(torch.uint8)):
                raise VerificationError(
                    f"row {row} of {change.tensor} reads back other bytes "
                    "than were written; check the disk and try again"
                )


def _manifest(
    staged: Path, edits: Sequence[Edit], changes: Sequence[TensorChange], coverage: Coverage
) -> dict[str, Any]:
    files = sorted(path for path in staged.rglob("*") if path.is_file())
    return {
        "format": 1,
        "provenance": provenance().to_json(),
        "edits": [
            {
                "alpha": edit.alpha,
                "strength": edit.strength,
                "provenance": edit.provenance.to_json(),
            }
            for edit in edits
        ],
        "coverage": asdict(coverage),
        "rows_by_tensor": {change.tensor: change.rows.tolist() for change in changes},
        "sha256": {str(path.relative_to(staged)): sha256_file(path) for path in files},
    }
