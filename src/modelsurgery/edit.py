"""An edit, and the only arithmetic that changes weights.

An edit is a sum of rank-one updates, ΔW = coefficients ⊗ direction on chosen rows of each gate
matrix. With the paper's rule every coefficient is α and the direction is W[1]:
v ← v + α·W[1] for each row v of the region.

`strength` s is α in portable units: α = s · (mean L2 norm of all gate rows) / ‖direction‖.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from modelsurgery.checkpoint import DTYPES, Checkpoint
from modelsurgery.errors import CheckpointError, EditMismatchError, RecipeError
from modelsurgery.files import sha256_bytes
from modelsurgery.provenance import Provenance, provenance
from modelsurgery.region import Region


@dataclass(frozen=True)
class RowUpdate:
    """A rank-one update of chosen rows of one matrix.

    Attributes:
        tensor: name of the matrix in the checkpoint.
        shape: [rows, d] of the whole matrix.
        dtype: safetensors' name of its element type.
        rows: [k] int32, ascending, from 0.
        coefficients: [k] float32.
        direction: [d] float32.
        base_rows_sha256: hash of the k rows before the edit, in the stored dtype; None until
            the edit is bound to a checkpoint.
    """

    tensor: str
    shape: tuple[int, int]
    dtype: str
    rows: torch.Tensor
    coefficients: torch.Tensor
    direction: torch.Tensor
    base_rows_sha256: str | None = None


@dataclass(frozen=True)
class Edit:
    """What to add to which rows.

    Attributes:
        updates: one per matrix touched, in block order.
        alpha: the paper's number: multiplies the direction.
        strength: the same in portable units.
        candidate_rows: gate rows of the whole model.
        provenance: where it comes from.
    """

    updates: tuple[RowUpdate, ...]
    alpha: float
    strength: float
    candidate_rows: int
    provenance: Provenance = field(default_factory=provenance)

    @property
    def row_count(self) -> int:
        """Rows that the edit touches."""
        return sum(len(update.rows) for update in self.updates)

    def scaled(self, factor: float) -> "Edit":
        """The same edit, `factor` times as strong; a negative factor turns it round."""
        updates = tuple(
            replace(update, coefficients=update.coefficients * factor) for update in self.updates
        )
        return replace(
            self, updates=updates, alpha=self.alpha * factor, strength=self.strength * factor
        )

    def bound_to(self, checkpoint: Checkpoint) -> "Edit":
        """The same edit with the hashes of the rows it was made for."""
        updates = tuple(
            replace(update, base_rows_sha256=rows_sha256(read_rows(checkpoint, update)))
            for update in self.updates
        )
        return replace(self, updates=updates)


@dataclass(frozen=True)
class TensorChange:
    """Rows of one matrix before and after all edits.

    Attributes:
        tensor: name of the matrix in the checkpoint.
        rows: [k] int64, ascending.
        before: [k, d] in the dtype that the sum was rounded to.
        after: [k, d] in the same dtype.
    """

    tensor: str
    rows: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor

    @property
    def bytes_changed(self) -> int:
        """How many bytes differ."""
        before, after = self.before.view(torch.uint8), self.after.view(torch.uint8)
        return int((before != after).sum())


def make_edit(
    region: Region,
    direction: torch.Tensor,
    *,
    alpha: float | None = None,
    strength: float | None = None,
    origin: Provenance | None = None,
) -> Edit:
    """Turn a region and a direction into an edit.

    Args:
        region: the rows to change.
        direction: [d] float32 that goes with the behavior, not normalised.
        alpha: multiplies the direction; positive moves away from the behavior, negative toward.
        strength: the same in portable units; give one of the two.
        origin: provenance to store.

    Raises:
        RecipeError: both or neither of alpha and strength, or a number that f32 cannot hold.
        CheckpointError: every gate row is zero.
    """
    if (alpha is None) == (strength is None):
        raise RecipeError("give either alpha or strength, and not both")
    if region.mean_row_norm == 0:
        raise CheckpointError("every gate row is zero; the weights are damaged, fetch them again")
    unit = region.mean_row_norm / direction.norm().item()
    alpha = strength * unit if alpha is None and strength is not None else alpha
    assert alpha is not None
    if not abs(alpha) <= torch.finfo(torch.float32).max:  # NaN is refused too
        given = f"alpha {alpha}" if strength is None else f"strength {strength}"
        raise RecipeError(f"{given}; expected a finite number that float32 can hold")
    direction = direction.float().contiguous()
    updates = tuple(
        RowUpdate(
            tensor=gate.tensor,
            shape=(gate.rows, gate.hidden_size),
            dtype=gate.dtype,
            rows=torch.from_numpy(rows).to(torch.int32),
            coefficients=torch.full((len(rows),), alpha, dtype=torch.float32),
            direction=direction,
        )
        for gate, rows in zip(region.gates, region.rows, strict=True)
    )
    return Edit(updates, alpha, alpha / unit, region.candidate_rows, origin or provenance())


def edited_rows(rows: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """Add to rows: widen to f32, add once, round once to the rows' dtype.

    Every way of delivering an edit goes through here, so that memory and disk agree bit for bit.

    Args:
        rows: [k, d] in f32, bf16 or f16.
        delta: [k, d] float32.

    Raises:
        RecipeError: a sum that the dtype cannot hold.
    """
    result = (rows.float() + delta).to(rows.dtype)
    if not result.isfinite().all():
        raise RecipeError(
            f"the edited rows overflow {str(rows.dtype).removeprefix('torch.')}; "
            "take a smaller strength"
        )
    return result


def tensor_changes(
    edits: Sequence[Edit], read: Callable[[RowUpdate, torch.Tensor], torch.Tensor]
) -> Iterator[TensorChange]:
    """Rows before and after all edits together, one matrix at a time.

    Several edits of one row are summed in f32 and rounded once, in an order that depends on
    what they are and not on how they were given. Rows with coefficient 0 are left alone.

    Args:
        edits: edits of one base model.
        read: gives rows [k] of a matrix as [k, d], in the dtype to round to.

    Raises:
        EditMismatchError: the rows are not those that an edit was made for, or two edits
            disagree about a matrix.
    """
    by_tensor: dict[str, list[RowUpdate]] = {}
    for edit in edits:
        for update in edit.updates:
            by_tensor.setdefault(update.tensor, []).append(update)
    for tensor, updates in sorted(by_tensor.items()):
        for update in updates:
            if (update.shape, update.dtype) != (updates[0].shape, updates[0].dtype):
                raise EditMismatchError(
                    f"two edits disagree about the shape or dtype of {tensor};"
                    " they were made for different models"
                )
            if update.base_rows_sha256 is not None:
                _check_base(update, read(update, update.rows.long()))
        rows, delta = _summed(updates)
        if len(rows):
            before = read(updates[0], rows)
            yield TensorChange(tensor, rows, before, edited_rows(before, delta.to(before.device)))


def _summed(updates: Sequence[RowUpdate]) -> tuple[torch.Tensor, torch.Tensor]:
    ordered = sorted(updates, key=_canonical)
    active = [update.coefficients != 0 for update in ordered]
    rows = torch.cat([u.rows[a].long() for u, a in zip(ordered, active, strict=True)]).unique()
    delta = torch.zeros(len(rows), updates[0].shape[1])
    for update, used in zip(ordered, active, strict=True):
        places = torch.searchsorted(rows, update.rows[used].long())
        delta[places] += update.coefficients[used].unsqueeze(1) * update.direction
    return rows, delta


def _canonical(update: RowUpdate) -> tuple[bytes, bytes, bytes]:
    parts = (update.direction, update.coefficients, update.rows)
    first, second, third = (part.contiguous().numpy().tobytes() for part in parts)
    return first, second, third


def _check_base(update: RowUpdate, rows: torch.Tensor) -> None:
    stored = DTYPES[update.dtype]
    if rows.dtype == stored and rows_sha256(rows) == update.base_rows_sha256:
        return
    if torch.promote_types(rows.dtype, stored) != rows.dtype:
        return  # loaded in a narrower dtype: the original bytes are gone, nothing to compare
    raise EditMismatchError(
        f"the rows of {update.tensor} are not those that this edit was made for; the model is "
        "another one, or was edited already: give the model that the edit was made from"
    )


def read_rows(checkpoint: Checkpoint, update: RowUpdate) -> torch.Tensor:
    """Rows of an update as they are on disk, [k, d] in the stored dtype.

    Raises:
        EditMismatchError: the checkpoint has no such matrix.
    """
    return read_chosen_rows(checkpoint, update, update.rows.long())


def read_chosen_rows(checkpoint: Checkpoint, update: RowUpdate, rows: torch.Tensor) -> torch.Tensor:
    """Any rows of an update's matrix as they are on disk, [k, d] in the stored dtype.

    Raises:
        EditMismatchError: the checkpoint has no such matrix.
    """
    stored = checkpoint.tensors.get(update.tensor)
    if stored is None or stored.shape != update.shape or stored.dtype != update.dtype:
        found = "no such tensor" if stored is None else f"{stored.dtype} {list(stored.shape)}"
        raise EditMismatchError(
            f"{checkpoint.directory}: the edit is for {update.tensor} as {update.dtype} "
            f"{list(update.shape)}, found {found}; give the model that the edit was made from"
        )
    runs = []
    start = 0
    while start < len(rows):  # neighbors in one read
        stop = start + 1
        while stop < len(rows) and rows[stop] == rows[stop - 1] + 1:
            stop += 1
        first = int(rows[start])
        runs.append(checkpoint.read_rows(update.tensor, first, first + stop - start))
        start = stop
    return torch.cat(runs) if runs else torch.empty(0, update.shape[1], dtype=DTYPES[update.dtype])


def rows_sha256(rows: torch.Tensor) -> str:
    """Hash of the bytes of rows [k, d] in their dtype."""
    return sha256_bytes(rows.contiguous().cpu().view(torch.uint8).numpy().tobytes())
