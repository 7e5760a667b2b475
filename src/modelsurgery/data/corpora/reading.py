"""The rows of one file, in the formats in which the corpora are published, and what is in them."""

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from modelsurgery.data.corpora.format import FileFormat
from modelsurgery.data.text_files import (
    Rows,
    checked_text,
    delimited_fields,
    json_item_rows,
    json_line_rows,
    parquet_rows,
    read_lines,
    read_text,
)
from modelsurgery.errors import TextsError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One row of a corpus."""

    where: str  # the file and the line or row, for messages
    file: str  # name of the file without suffix, or the Hub's split
    values: dict[str, Any]  # by column; a nested record has columns like `prompt.text`

    def value(self, column: str) -> Any:
        """What stands in a column.

        Raises:
            TextsError: no such column.
        """
        if column not in self.values:
            raise TextsError(
                f"{self.where}: no column {column!r}; found "
                f"{', '.join(map(repr, list(self.values)[:8])) or 'nothing'}"
            )
        return self.values[column]

    def text(self, column: str) -> str:
        """The text in a column.

        Raises:
            TextsError: no such column, no text, an empty one, or one that no tokenizer can read.
        """
        return checked_text(self.value(column), self.where, repr(column))

    def has(self, column: str) -> bool:
        """Whether there is such a column with something in it."""
        return self.values.get(column) not in (None, "")

    def name(self, column: str | None) -> str | None:
        """The value of a column as a name; None where there is none, or for no column."""
        value = None if column is None else self.value(column)
        return None if value is None else str(value)

    def names(self, column: str) -> list[str]:
        """A column's value or values in the spelling of the registry: `1`, `true`, `anger`."""
        value = self.value(column)
        values = value if isinstance(value, list) else [value]
        return [str(one).lower() if isinstance(one, bool) else str(one).strip() for one in values]

    def score(self, column: str | None) -> float | None:
        """The share or probability in a column; None where there is none, or for no column.

        Raises:
            TextsError: no such column, or no number from 0 to 1.
        """
        value = None if column is None else self.value(column)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise TextsError(
                f"{self.where}: {column} = {cut(str(value))!r}; expected a number from 0 to 1"
            )
        return float(value)


def read_records(path: Path, form: FileFormat) -> Iterator[Record]:
    """The rows of a file, in its order.

    A Parquet or JSON lines file is taken for what it is, whatever the published format: that is how
    the Hub's copy of a corpus lies on a disk.

    Raises:
        TextsError: missing, not UTF-8, not in the format, or a line that is wrong.
    """
    readers: dict[str, Callable[[Path], Rows]] = {
        "parquet": parquet_rows,
        "jsonl": json_line_rows,
        "json": json_item_rows,
        "delimited": partial(_delimited, form=form),
        "tree": partial(_tree, form=form),
        "lines": _lines,
        "whole": _whole,
    }
    suffix = path.suffix.lower()
    kind = suffix[1:] if suffix in (".parquet", ".jsonl") else form.kind
    for place, values in readers[kind](path):
        yield Record(f"{path}, {place}", path.stem, flat(values))


def flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A record without nesting: {"prompt": {"text": …}} becomes {"prompt.text": …}."""
    values: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values


def cut(text: str) -> str:
    """A text for a message: what stands in a wrong place may be long, and nothing to be shown."""
    return text if len(text) <= 24 else f"{text[:24]}…"


def _lines(path: Path) -> Rows:
    for number, line in enumerate(read_lines(path), 1):
        yield f"line {number}", {"text": line}


def _whole(path: Path) -> Rows:
    yield "whole", {"text": read_text(path)}


def _delimited(path: Path, form: FileFormat) -> Rows:
    fields = delimited_fields(path, form.delimiter, is_quoted=form.quoted)
    first = next(fields)
    names = form.columns
    if form.header:
        names = first[1]
        if missing := [column for column in form.columns if column not in names]:
            raise TextsError(
                f"{path}, line 1: no column {missing[0]!r}; expected a header with "
                f"{', '.join(map(repr, form.columns))}, found {_brief(names)}"
            )
    elif form.header_with and {*form.header_with} <= {*first[1]}:
        names = first[1]
    else:
        fields = itertools.chain([first], fields)
    ragged = 0
    for line, values in fields:
        if len(values) == len(names):
            yield f"line {line}", dict(zip(names, values, strict=True))
            continue
        ragged += 1
        if ragged > form.ragged:
            raise TextsError(
                f"{path}, line {line}: {len(values)} columns; expected {len(names)} separated by "
                f"{form.delimiter!r}"
                + (f" in all but {form.ragged} lines" if form.ragged else "")
                + ", download the published file again"
            )
    if ragged:
        log.info("%s: skipped %d lines with another number of columns", path, ragged)


def _tree(path: Path, form: FileFormat) -> Rows:
    try:
        # The C loader where there is one: 0.05 s instead of seconds for 3 MB.
        content = yaml.load(read_text(path), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise TextsError(f"{path}: not valid YAML ({reason}); is the file truncated?") from error
    for keys, number, text in _leaves(content, form.levels, (), path):
        values = dict(zip(form.levels, keys, strict=True))
        # Without the outermost key, so that forms of one task have the same path.
        values |= {"text": text, "path": "/".join([*keys[1:], str(number)])}
        yield " / ".join([*keys, str(number)]), values


def _leaves(
    node: object, levels: list[str], keys: tuple[str, ...], path: Path
) -> Iterator[tuple[tuple[str, ...], int, Any]]:
    at = f"{path}, {' / '.join(keys) or 'top'}"
    if levels:
        if not isinstance(node, dict) or not node:
            raise TextsError(
                f"{at}: {type(node).__name__}; expected keys, one for each {levels[0]}"
            )
        for key, child in node.items():
            yield from _leaves(child, levels[1:], (*keys, str(key)), path)
    else:
        if not isinstance(node, list) or not node:
            raise TextsError(f"{at}: {type(node).__name__}; expected a list of texts")
        for number, text in enumerate(node, 1):
            yield keys, number, text


def _brief(names: list[str]) -> str:
    """Column names for a message."""
    shown = [repr(cut(name)) for name in names[:8]]
    return ", ".join(shown) + (", …" if len(names) > 8 else "")
