"""What a surgery will find, read and write, said before anything is touched."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modelsurgery.apply.arrival import Arrival, ArrivalSums
from modelsurgery.apply.earlier import naming_earlier
from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.layouts import (
    GateLayout,
    GateMatrix,
    choose_layout,
    find_gate_matrices,
)
from modelsurgery.checkpoint.layouts.matching import name_patterns
from modelsurgery.checkpoint.quantized import QUANTIZED_DTYPES, check_writable
from modelsurgery.checkpoint.rows import Weights
from modelsurgery.edit.changes import tensor_changes
from modelsurgery.edit.edit import Edit, layout_of, named_as, rows_reader
from modelsurgery.errors import EditMismatchError

# What writing and flushing is taken to manage: a plan writes nothing, so it cannot measure it.
ASSUMED_WRITE_BYTES_PER_SECOND = 300e6
SAMPLE_BYTES = 32 << 20
REMOTE_SAMPLE_BYTES = 1 << 20
START_SECONDS = 0.5
# numpy, the YAML of layouts and the interpreter, before the first row is read.
PROGRAM_BYTES = 90 << 20
# Of every edited row there are, for a moment: before, after, and three working copies in f32.
WORKING_COPIES_F32 = 3


@dataclass(frozen=True)
class TypePlan:
    """What is there of one quantized type, and what an edit will do to it.

    Attributes:
        matrices: gate matrices of this type.
        rows: their rows.
        rows_edited: rows that the edits change.
        arrival: how much of the edits arrives; None where they change no row.

    Example:
        >>> TypePlan(matrices=30, rows=46080, rows_edited=0, arrival=None).rows
        46080
    """

    matrices: int
    rows: int
    rows_edited: int
    arrival: Arrival | None


@dataclass(frozen=True)
class Plan:
    """What an edit would read and write (see `plan_surgery`).

    Attributes:
        family: title of the layout.
        model_type: `model_type` in config.json.
        mlp: `gated` or `plain`.
        matrices_found: number of gate matrices; in a mixture of experts, one per expert.
        rows_found: number of gate rows in the model.
        hidden_size: length d of a row.
        dtypes: types of the gate matrices, as their files name them.
        types: of quantized ones, by type: matrices, rows, rows that the edits change, and how much
            of the edits arrives in them.
        left_alone: tensors with `gate` in their name that are not gate matrices, such as routers,
            vision towers and blocks for multi-token prediction. Names, with numbers as `*`, and
            counts.
        files: number of weight files.
        bytes_total: bytes of all weights.
        rows_edited: rows that the edits change; 0 without edits.
        files_changed: weight files that the edits change.
        bytes_read: bytes of all gate rows, or of the rows that the edits change.
        bytes_written_in_place: bytes of the journal and the rows.
        bytes_written_copy: the same plus the changed files, if blocks cannot be shared.
        bytes_free: free bytes on the model's disk.
        peak_memory_bytes: estimated peak memory.
        seconds_in_place: estimated time to read the rows or, with edits, to edit in place.
        seconds_copy: estimated time to write a copy; 0 without edits.

    Example:
        >>> plan_surgery(checkpoint).rows_found
        2560
    """

    family: str
    model_type: str | None
    mlp: str
    matrices_found: int
    rows_found: int
    hidden_size: int
    dtypes: tuple[str, ...]
    types: dict[str, TypePlan]
    left_alone: dict[str, int]
    files: int
    bytes_total: int
    rows_edited: int
    files_changed: int
    bytes_read: int
    bytes_written_in_place: int
    bytes_written_copy: int
    bytes_free: int
    peak_memory_bytes: int
    seconds_in_place: float
    seconds_copy: float


def plan_surgery(
    checkpoint: Checkpoint, edits: Sequence[Edit] = (), *, layout: GateLayout | None = None
) -> Plan:
    """Estimate what an edit will read and write, and how long it takes. Changes nothing.

    Reads headers and a few rows, to measure the speed of the disk; of a quantized model the rows
    that change, to tell how much of the edits arrives.

    Args:
        checkpoint: the model.
        edits: edits to apply. Without edits, the plan is for choosing rows.
        layout: where the gate rows are; by default the layout of the edits or the model family.

    Returns:
        The plan.

    Raises:
        UnsupportedModelError: the model family or its weight format is not supported.
        EditMismatchError: an edit is for matrices that the model does not have, or for other rows.

    Example:
        >>> plan = plan_surgery(checkpoint, [edit])
        >>> plan.rows_edited == edit.row_count
        True
    """
    layout = layout or layout_of(edits) or choose_layout(checkpoint)
    gates = find_gate_matrices(checkpoint, layout)
    edits = named_as(edits, gates)
    touched = _rows_touched(checkpoint, gates, edits)
    row_bytes = {gate: gate.view.columns * gate.view.itemsize for gate in gates}
    rows_bytes = sum(count * row_bytes[gate] for gate, count in touched.items())
    read = rows_bytes if touched else sum(gate.rows * row_bytes[gate] for gate in gates)
    files = {checkpoint.tensors[gate.tensor].file for gate in touched}
    copied = sum(one.size_bytes for one in checkpoint.tensors.values() if one.file in files)
    largest = max((count * gate.hidden_size for gate, count in touched.items()), default=1 << 20)
    seconds_read = START_SECONDS + read / _read_rate(checkpoint, gates)
    in_place, copy = 2 * rows_bytes, rows_bytes + copied
    return Plan(
        family=layout.title,
        model_type=checkpoint.config.get("model_type"),
        mlp=layout.mlp,
        matrices_found=len(gates),
        rows_found=sum(gate.rows for gate in gates),
        hidden_size=gates[0].hidden_size,
        dtypes=tuple(sorted({gate.dtype for gate in gates})),
        types=_types(checkpoint, gates, touched, edits),
        left_alone=_left_alone(checkpoint, gates),
        files=len(checkpoint.files),
        bytes_total=checkpoint.size_bytes,
        rows_edited=sum(touched.values()),
        files_changed=len(files),
        bytes_read=read,
        bytes_written_in_place=in_place,
        bytes_written_copy=copy if touched else 0,
        bytes_free=shutil.disk_usage(checkpoint.directory).free,
        peak_memory_bytes=PROGRAM_BYTES + largest * 4 * (WORKING_COPIES_F32 + 2),
        seconds_in_place=seconds_read + in_place / ASSUMED_WRITE_BYTES_PER_SECOND,
        seconds_copy=seconds_read + copy / ASSUMED_WRITE_BYTES_PER_SECOND if touched else 0.0,
    )


def _types(
    checkpoint: Checkpoint,
    gates: Sequence[GateMatrix],
    touched: dict[GateMatrix, int],
    edits: Sequence[Edit],
) -> dict[str, TypePlan]:
    """What is there of each quantized type."""
    names = sorted({gate.dtype for gate in gates if gate.dtype in QUANTIZED_DTYPES})
    arrivals: dict[str, Arrival] = {}
    if names and touched:
        for dtype in {gate.dtype for gate in touched}:
            check_writable(dtype, str(checkpoint.place))
        with naming_earlier(checkpoint, gates, edits), Weights(checkpoint) as weights:
            sums = ArrivalSums()
            for _ in sums.watched(tensor_changes(edits, rows_reader(weights, gates))):
                pass
            arrivals = sums.by_type()
    return {
        name: TypePlan(
            matrices=sum(gate.dtype == name for gate in gates),
            rows=sum(gate.rows for gate in gates if gate.dtype == name),
            rows_edited=sum(count for gate, count in touched.items() if gate.dtype == name),
            arrival=arrivals.get(name),
        )
        for name in names
    }


def _rows_touched(
    checkpoint: Checkpoint, gates: Sequence[GateMatrix], edits: Sequence[Edit]
) -> dict[GateMatrix, int]:
    """How many rows of each matrix the edits name together."""
    by_address = {gate.address: gate for gate in gates}
    rows: dict[GateMatrix, set[int]] = {}
    for update in (update for edit in edits for update in edit.updates):
        gate = by_address.get(update.address)
        if gate is None or (gate.rows, gate.hidden_size) != update.shape:
            raise EditMismatchError(
                f"{checkpoint.place}: the edit is for {update.tensor} {list(update.shape)}, "
                "which this model does not have; use the model that the edit was made from"
            )
        rows.setdefault(gate, set()).update(update.rows.tolist())
    return {gate: len(numbers) for gate, numbers in rows.items()}


def _read_rate(checkpoint: Checkpoint, gates: Sequence[GateMatrix]) -> float:
    """Bytes a second at which rows of the first matrix are read."""
    view = gates[0].view
    sample = SAMPLE_BYTES if checkpoint.remote is None else REMOTE_SAMPLE_BYTES
    count = max(1, min(view.rows, sample // (view.columns * view.itemsize)))
    with Weights(checkpoint) as weights:
        start = time.perf_counter()
        rows = weights.read(view, np.arange(count))
        return rows.nbytes / max(time.perf_counter() - start, 1e-6)


def _left_alone(checkpoint: Checkpoint, gates: Sequence[GateMatrix]) -> dict[str, int]:
    edited = {gate.tensor for gate in gates}
    others = [name for name in checkpoint.tensors if "gate" in name and name not in edited]
    return dict(sorted(name_patterns(others).items()))
