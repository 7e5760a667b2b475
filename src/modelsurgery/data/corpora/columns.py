"""Values out of the columns of a row, checked."""

from typing import Any

from modelsurgery.data.corpora.reading import Record, cut
from modelsurgery.data.text_files import checked_text
from modelsurgery.errors import TextsError


def text_of(row: Record, column: str) -> str:
    """The text in a column.

    Raises:
        TextsError: no such column, no text, an empty one, or one that no tokenizer can read.
    """
    return checked_text(value_of(row, column), row.where, repr(column))


def optional_text_of(row: Record, column: str) -> str | None:
    """The same; None where there is no such column or nothing in it."""
    return None if row.values.get(column) in (None, "") else text_of(row, column)


def name_of(row: Record, column: str | None) -> str | None:
    """The value of a column as a name; None where there is none, or for no column."""
    value = None if column is None else value_of(row, column)
    return None if value is None else str(value)


def keys_of(row: Record, column: str) -> list[str]:
    """A column's value or values in the spelling of the registry: `1`, `true`, `anger`."""
    value = value_of(row, column)
    values = value if isinstance(value, list) else [value]
    return [str(one).lower() if isinstance(one, bool) else str(one).strip() for one in values]


def score_of(row: Record, column: str | None) -> float | None:
    """The share or probability in a column; None where there is none, or for no column.

    Raises:
        TextsError: no such column, or no number from 0 to 1.
    """
    value = None if column is None else value_of(row, column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise TextsError(
            f"{row.where}: {column} = {cut(str(value))!r}; expected a number from 0 to 1"
        )
    return float(value)


def value_of(row: Record, column: str) -> Any:
    """What stands in a column.

    Raises:
        TextsError: no such column.
    """
    if column not in row.values:
        raise TextsError(
            f"{row.where}: no column {column!r}; found "
            f"{', '.join(map(repr, list(row.values)[:8])) or 'nothing'}"
        )
    return row.values[column]
