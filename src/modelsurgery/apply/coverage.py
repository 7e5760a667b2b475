"""What an edit touched, of how much: reported by everything that applies one."""

from collections.abc import Sequence
from dataclasses import dataclass

from modelsurgery.edit import TensorChange
from modelsurgery.errors import NothingChangedError


@dataclass(frozen=True)
class Coverage:
    """How much of a model an edit changed.

    Attributes:
        tensors_found: gate matrices of the model.
        tensors_edited: matrices in which at least one byte changed.
        rows_edited: rows in which at least one byte changed.
        rows_found: gate rows of the model.
        bytes_changed: bytes that differ from the base, in the stored dtype.
        bytes_total: bytes of all weights of the model.
    """

    tensors_found: int
    tensors_edited: int
    rows_edited: int
    rows_found: int
    bytes_changed: int
    bytes_total: int


def measure_coverage(
    changes: Sequence[TensorChange], *, tensors_found: int, rows_found: int, bytes_total: int
) -> Coverage:
    """Count what changed.

    Raises:
        NothingChangedError: no byte differs.
    """
    changed_rows = [(change.before != change.after).any(dim=1).sum().item() for change in changes]
    coverage = Coverage(
        tensors_found=tensors_found,
        tensors_edited=sum(count > 0 for count in changed_rows),
        rows_edited=int(sum(changed_rows)),
        rows_found=rows_found,
        bytes_changed=sum(change.bytes_changed for change in changes),
        bytes_total=bytes_total,
    )
    if coverage.bytes_changed == 0:
        raise NothingChangedError(
            "the edit changes no byte: its strength is 0, its region empty, "
            "or too weak for the stored dtype; take a larger strength"
        )
    return coverage
