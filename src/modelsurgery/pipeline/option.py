"""How a field of a pydantic model is given on the command line, beside its type and description.

A field declares everything about its option in one place::

    samples: Annotated[
        int | None,
        Field(ge=1, description="Sampled continuations per prompt."),
        Option(Panel.MEASURING, default="3, or as many as the time allows"),
    ] = None

The command line is built from these declarations (`modelsurgery.cli.options`). Fields without an
`Option` can be set in YAML and from Python only.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from modelsurgery.errors import RecipeError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Panel(StrEnum):
    """Panels of `--help`, in the order in which they are shown."""

    EVERYDAY = "Options"  # where Typer puts `--help`
    DATA = "Data"
    EDIT = "Edit"
    SEARCH = "Search"
    MEASURING = "Measuring"
    MODEL = "Model"
    GRID = "Grid"
    OUTPUT = "Output"


@dataclass(frozen=True)
class Option:
    """How a field is given on the command line."""

    panel: Panel  # panel of `--help` that shows it
    # What applies without the option, where the default of the field (None) does not say it.
    default: str | None = None
    name: str | None = None  # as it is typed, if that is not the name of the field
    metavar: str | None = None  # stands for the value in `--help`; None shows the type
    # Makes the value from the word that was typed; None leaves that to the type.
    read: Callable[[str], Any] | None = None


def row_share(value: str) -> float | int:
    """A share (float) or a count (int) of rows."""
    with suppress(ValueError):
        return int(value)
    try:
        return float(value)
    except ValueError as error:
        raise RecipeError(
            f"rows {value!r}; expected a share like 0.0465 or a count like 16384"
        ) from error


def check_rows(rows: float | int | None) -> float | int | None:
    """The same share or count of rows; ValueError, as pydantic wants it, for an impossible one."""
    if rows is not None:
        from modelsurgery.edit.region import row_count  # brings numpy

        try:
            row_count(rows, 1, available=2**63)
        except RecipeError as error:
            raise ValueError(str(error)) from error
    return rows


def layer_window(value: str) -> tuple[int, int]:
    """First and last layer of `8-24` or `8`."""
    first, _, last = value.partition("-")
    try:
        return int(first), int(last or first)
    except ValueError as error:
        raise RecipeError(f"layers {value!r}; expected a window like 8-24") from error


def percentage(value: str) -> float:
    """`+5%` and `0.05` as 0.05."""
    try:
        number = float(value.strip().removesuffix("%"))
    except ValueError as error:
        raise RecipeError(f"max-perplexity {value!r}; expected a rise like +5%") from error
    return number / 100 if value.strip().endswith("%") else number
