"""An edit: what to add to which gate rows.

An edit is a sum of rank-one updates, ΔW = coefficients ⊗ direction on chosen rows of each gate
matrix. With the paper's rule every coefficient is α and the direction is W[1]:
v ← v + α·W[1] for each row v of the region.

`strength` s is α in portable units: α = s · (mean L2 norm of all gate rows) / ‖direction‖.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.layouts import Address, GateLayout, GateMatrix, find_gate_matrices
from modelsurgery.checkpoint.rows import ROW_DTYPES, Rows, Weights, widened
from modelsurgery.edit.base_samples import samples_of
from modelsurgery.edit.effects import Measurement, Prediction
from modelsurgery.edit.region import Region
from modelsurgery.errors import CheckpointError, EditMismatchError, RecipeError
from modelsurgery.files.atomic import sha256_bytes
from modelsurgery.files.provenance import Provenance

# Gives chosen rows [k] (int64, ascending) of an update's matrix as [k, d] in the dtype to round to.
ReadRows = Callable[["RowUpdate", NDArray[np.int64]], Rows]


@dataclass(frozen=True)
class RowUpdate:
    """A rank-one update of chosen rows of one matrix."""

    tensor: str  # name of the stored tensor in the checkpoint that the edit was made from
    address: Address  # which matrix of the model it is, whatever a file calls it
    shape: tuple[int, int]  # [rows, d] of the whole matrix
    dtype: str  # safetensors' name of its element type
    rows: NDArray[np.int32]  # [k] int32, ascending, from 0
    coefficients: NDArray[np.float32]  # [k] float32
    direction: NDArray[np.float32]  # [d] float32
    # Hash of the k rows before the edit, in the stored dtype; None until the edit is bound to a
    # checkpoint, and of a dequantized one.
    base_rows_sha256: str | None = None
    # What the rule expects of the rows; None of a rule that predicts nothing.
    predicted: Prediction | None = None
    # [k, s] float16, a few values of each row before the edit, by which rows are known that are
    # quantized; None until the edit is bound.
    base_samples: NDArray[np.float16] | None = None


@dataclass(frozen=True)
class Edit:
    """An edit of a model: what to add to which gate rows.

    Edits are immutable. `edit + other`, `-edit` and `edit.scaled(0.5)` are new edits.

    Attributes:
        updates: rank-one updates, one per changed matrix and direction, in block order.
        alpha: α of the paper, the factor of the direction. For a sum of edits, 1.
        strength: the same in portable units: 1 adds vectors as long as the average gate row. For a
            sum of edits, 1.
        candidate_rows: number of gate rows in the whole model.
        provenance: seed, settings, versions and hashes of the inputs that made the edit.
        layout: where the model keeps its gate rows, if described by the user; None for supported
            families.
        measured: measured effect on the texts that its strength was chosen on; None after scaling
            or adding.

    Example:
        >>> edit = load_edit("edit.safetensors")
        >>> edit.scaled(0.5).strength == 0.5 * edit.strength
        True
    """

    updates: tuple[RowUpdate, ...]
    alpha: float
    strength: float
    candidate_rows: int
    provenance: Provenance = field(default_factory=Provenance)
    layout: GateLayout | None = None
    measured: Measurement | None = None

    @property
    def row_count(self) -> int:
        """Number of rows that the edit changes."""
        return sum(len(rows_of(some)) for some in by_matrix(self.updates).values())

    @property
    def content_sha256(self) -> str:
        """Hash of what the edit changes, without its provenance."""
        digest = hashlib.sha256()
        for update in sorted(self.updates, key=lambda one: (one.address, canonical(one))):
            digest.update(repr((update.address, update.shape, update.dtype)).encode())
            for array in (update.rows, update.coefficients, update.direction):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def scaled(self, factor: float) -> "Edit":
        """Scale the edit; a negative factor reverses it.

        Args:
            factor: factor of the strength.

        Returns:
            A new edit, without `measured`.
        """
        updates = tuple(
            replace(
                update,
                coefficients=update.coefficients * np.float32(factor),
                predicted=update.predicted and update.predicted.scaled(factor),
            )
            for update in self.updates
        )
        alpha, strength = self.alpha * factor, self.strength * factor
        return replace(self, updates=updates, alpha=alpha, strength=strength, measured=None)

    def __neg__(self) -> "Edit":
        """The reversed edit."""
        return self.scaled(-1)

    def __add__(self, other: "Edit") -> "Edit":
        """Add two edits. Applying the sum is the same as applying both.

        Raises:
            EditMismatchError: they were made for different models.
        """
        if not isinstance(other, Edit):
            return NotImplemented
        if self.candidate_rows != other.candidate_rows:
            raise EditMismatchError(
                f"one edit is for a model with {self.candidate_rows} gate rows, the other for one "
                f"with {other.candidate_rows}; only edits of the same model can be added"
            )
        updates = (replace(one, predicted=None) for one in (*self.updates, *other.updates))
        settings = {"sum_of": [self.content_sha256, other.content_sha256]}
        return Edit(
            tuple(sorted(updates, key=lambda one: one.address)),
            alpha=1.0,
            strength=1.0,
            candidate_rows=self.candidate_rows,
            provenance=Provenance(seed=self.provenance.seed, settings=settings),
            layout=layout_of((self, other)),
        )

    def applied(self, model: Any) -> AbstractContextManager[Any]:
        """Apply the edit to a loaded model inside a `with` block (see `edited`).

        Args:
            model: a transformers model, or a `LanguageModel`.

        Returns:
            A context manager. On exit it restores the exact weights from before.

        Raises:
            EditMismatchError: the model's rows are not those that the edit was made for.

        Example:
            >>> batch = model.tokenize(["My neighbor is"])
            >>> with edit.applied(model):
            ...     answer = model.model.generate(**batch, max_new_tokens=5)
        """
        from modelsurgery.apply.in_memory import edited  # loads torch

        return edited(model, self)

    def save(self, path: Path | str) -> None:
        """Write the edit to a safetensors file (see `save_edit`).

        Args:
            path: file to write.

        Raises:
            StorageError: the file cannot be written.
        """
        from modelsurgery.edit.edit_file import save_edit

        save_edit(self, Path(path))

    def unbound(self) -> "Edit":
        """Copy the edit without what its base rows are known by, for rows that were checked."""
        free = (replace(one, base_rows_sha256=None, base_samples=None) for one in self.updates)
        return replace(self, updates=tuple(free))

    def bound_to(self, checkpoint: Checkpoint, gates: Sequence[GateMatrix] | None = None) -> "Edit":
        """Copy the edit with hashes and samples of the checkpoint's rows that it changes.

        A bound edit is refused on a model whose rows are different. It fits the same model where it
        is quantized.

        Args:
            checkpoint: the model that the edit was made from.
            gates: gate matrices of the checkpoint, if they are known.

        Returns:
            The bound edit.

        Raises:
            EditMismatchError: the checkpoint has no such matrix.
        """

        def bound(update: RowUpdate) -> RowUpdate:
            rows = read(update, update.rows.astype(np.int64))
            return replace(
                update,
                dtype=next(name for name, one in ROW_DTYPES.items() if one == rows.dtype),
                # No other file of the model has the bytes of dequantized rows.
                base_rows_sha256=None if checkpoint.is_dequantized else rows_sha256(rows),
                base_samples=samples_of(widened(rows)),
            )

        with Weights(checkpoint) as weights, ThreadPoolExecutor(os.cpu_count()) as pool:
            read = rows_reader(weights, gates or find_gate_matrices(checkpoint, self.layout))
            return replace(self, updates=tuple(pool.map(bound, self.unbound().updates)))


def make_edit(
    region: Region,
    direction: ArrayLike,
    *,
    alpha: float | None = None,
    strength: float | None = None,
    origin: Provenance | None = None,
    layout: GateLayout | None = None,
) -> Edit:
    """Make an edit that adds a direction to chosen gate rows.

    Every row v of the region becomes v + alpha · direction.

    Args:
        region: rows to change.
        direction: [d] float32, the direction that goes with the behavior; any length.
        alpha: factor of the direction. A positive value moves away from the behavior, a negative
            one toward it.
        strength: the same in portable units, instead of `alpha`; 1 adds vectors as long as the
            average gate row.
        origin: provenance to store in the edit.
        layout: layout described by the user, to store in the edit.

    Returns:
        The edit, not bound to a checkpoint (see `Edit.bound_to`).

    Raises:
        RecipeError: both or neither of `alpha` and `strength` are given, or float32 cannot hold the
            number.
        CheckpointError: all gate rows are zero.

    Example:
        >>> region = select_region(score_rows(checkpoint, gates, direction[None]), 100)
        >>> make_edit(region, direction, strength=0.5).row_count
        100
    """
    if (alpha is None) == (strength is None):
        raise RecipeError("give either alpha or strength, not both")
    if region.mean_row_norm == 0:
        raise CheckpointError("every gate row is zero; the weights are damaged, fetch them again")
    direction = np.ascontiguousarray(direction, dtype=np.float32)
    unit = region.mean_row_norm / float(np.linalg.norm(direction))
    if strength is not None:
        alpha = strength * unit
    assert alpha is not None
    if not abs(alpha) <= float(np.finfo(np.float32).max):  # NaN is refused too
        given = f"alpha {alpha}" if strength is None else f"strength {strength}"
        raise RecipeError(f"{given}; expected a finite number that float32 can hold")
    updates = tuple(
        RowUpdate(
            tensor=gate.tensor,
            address=gate.address,
            shape=(gate.rows, gate.hidden_size),
            dtype=gate.dtype,
            rows=rows.astype(np.int32),
            coefficients=np.full(len(rows), alpha, dtype=np.float32),
            direction=direction,
        )
        for gate, rows in zip(region.gates, region.rows, strict=True)
    )
    origin = origin or Provenance()
    return Edit(updates, alpha, alpha / unit, region.candidate_rows, origin, layout)


def by_matrix(updates: Iterable[RowUpdate]) -> dict[Address, list[RowUpdate]]:
    """Updates of each matrix, in their order."""
    found: dict[Address, list[RowUpdate]] = {}
    for update in updates:
        found.setdefault(update.address, []).append(update)
    return found


def rows_of(updates: Sequence[RowUpdate]) -> NDArray[np.int64]:
    """Rows that any of a matrix's updates names, ascending."""
    if len(updates) == 1:
        return updates[0].rows.astype(np.int64)
    return np.unique(np.concatenate([update.rows for update in updates])).astype(np.int64)


def canonical(update: RowUpdate) -> tuple[bytes, bytes, bytes]:
    """What updates are sorted by: their content, not how they were given."""
    return update.direction.tobytes(), update.coefficients.tobytes(), update.rows.tobytes()


def layout_of(edits: Sequence[Edit]) -> GateLayout | None:
    """The layout that edits carry, if a user described the family.

    Raises:
        EditMismatchError: they carry different ones.
    """
    layouts = [edit.layout for edit in edits if edit.layout is not None]
    if any(layout != layouts[0] for layout in layouts):
        raise EditMismatchError("the edits have different layouts; they are for different models")
    return layouts[0] if layouts else None


def named_as(edits: Sequence[Edit], gates: Iterable[GateMatrix]) -> tuple[Edit, ...]:
    """Edits whose matrices are called as a model calls them: an edit crosses over to other files.

    What the model does not have keeps its name.
    """
    names = {gate.address: gate.tensor for gate in gates}
    return tuple(
        replace(
            edit,
            updates=tuple(
                replace(one, tensor=names.get(one.address, one.tensor)) for one in edit.updates
            ),
        )
        for edit in edits
    )


def rows_reader(weights: Weights, gates: Sequence[GateMatrix]) -> ReadRows:
    """Reads rows of updates from disk, in the stored dtype.

    The function raises EditMismatchError when the checkpoint has no such matrix.
    """
    by_address = {gate.address: gate for gate in gates}

    def read(update: RowUpdate, rows: NDArray[np.int64]) -> Rows:
        gate = by_address.get(update.address)
        shape = None if gate is None else (gate.rows, gate.hidden_size)
        # Rows of another type are compared by samples, if the edit has them.
        proved = update.base_rows_sha256 is None or update.base_samples is not None
        same_type = gate is not None and gate.dtype == update.dtype
        if gate is None or shape != update.shape or not (same_type or proved):
            described = "no such matrix" if gate is None else f"{gate.dtype} {list(shape or ())}"
            raise EditMismatchError(
                f"{weights.checkpoint.place}: the edit is for {update.tensor} as "
                f"{update.dtype} {list(update.shape)}, found {described}; use the model that the "
                "edit was made from, or make the edit again: new ones fit other types of it too"
            )
        return weights.read(gate.view, rows)

    return read


def rows_sha256(rows: Rows) -> str:
    """Hash of the bytes of rows [k, d] in their dtype."""
    return sha256_bytes(np.ascontiguousarray(rows).view(np.uint8).reshape(-1).data)
