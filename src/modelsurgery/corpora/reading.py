"""The rows of one file, in the formats in which the corpora are published."""

import csv
import importlib
import io
import itertools
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from modelsurgery.corpora.format import FileFormat
from modelsurgery.errors import TextsError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One row of a corpus.

    Attributes:
        where: the file and the line or row, for messages.
        file: name of the file without suffix, or the Hub's split.
        values: by column; a nested record has columns like `prompt.text`.
    """

    where: str
    file: str
    values: dict[str, Any]


def read_rows(path: Path, form: FileFormat) -> Iterator[Row]:
    """The rows of a file, in its order.

    A Parquet or JSON lines file is taken for what it is, whatever the published format: that is how
    the Hub's copy of a corpus lies on a disk.

    Raises:
        TextsError: missing, not UTF-8, not in the format, or a line that is wrong.
    """
    if not path.is_file():
        raise TextsError(f"no file at {path}; expected a file of the corpus")
    numbered: Iterator[tuple[str, dict[str, Any]]]
    if path.suffix == ".parquet":
        numbered = _parquet(path)
    elif path.suffix == ".jsonl" or form.kind == "jsonl":
        numbered = _json_lines(path)
    elif form.kind == "delimited":
        numbered = _delimited(path, form)
    elif form.kind == "json":
        numbered = _json_list(path)
    elif form.kind == "tree":
        numbered = _tree(path, form)
    elif form.kind == "lines":
        numbered = _text_lines(path)
    else:
        numbered = iter([("whole", {"text": _read_text(path)})])
    for place, values in numbered:
        yield Row(f"{path}, {place}", path.stem, values)


def require(package: str, wanted_by: str) -> Any:
    """Import an optional package.

    Raises:
        TextsError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise TextsError(
            f"{wanted_by}: needs the package {package}; pip install 'modelsurgery[data]'"
        ) from error


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


def _delimited(path: Path, form: FileFormat) -> Iterator[tuple[str, dict[str, Any]]]:
    fields = (_quoted_fields if form.quoted else _bare_fields)(path, form)
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
                + ", load the published file again"
            )
    if ragged:
        log.info("%s: left out %d lines with another number of columns", path, ragged)


def _quoted_fields(path: Path, form: FileFormat) -> Iterator[tuple[int, list[str]]]:
    # strict: a file that ends within quotation marks is an error, not a long last field.
    reader = csv.reader(
        io.StringIO(_read_text(path), newline=""), delimiter=form.delimiter, strict=True
    )
    try:
        for fields in reader:
            yield reader.line_num, fields
    except csv.Error as error:
        raise TextsError(
            f"{path}, line {reader.line_num}: {error}; expected quoted CSV, is the file cut off?"
        ) from error


def _bare_fields(path: Path, form: FileFormat) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(_lines(path), 1):
        yield number, line.split(form.delimiter)


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TextsError(
                f"{path}, line {number}: not valid JSON ({error}); expected one object a line, is "
                "the file cut off?"
            ) from error
        yield f"line {number}", _record(record, f"{path}, line {number}")


def _json_list(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        records = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise TextsError(
            f"{path}: not valid JSON ({error}); expected a list of objects, is the file cut off?"
        ) from error
    if not isinstance(records, list):
        raise TextsError(f"{path}: {type(records).__name__}; expected a list of objects")
    for number, record in enumerate(records, 1):
        yield f"item {number}", _record(record, f"{path}, item {number}")


def _record(record: object, where: str) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise TextsError(f"{where}: {type(record).__name__}; expected a JSON object")
    return flat(record)


def _text_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), 1):
        yield f"line {number}", {"text": line}


def _tree(path: Path, form: FileFormat) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        # The C loader where there is one: 0.05 s instead of seconds for 3 MB.
        content = yaml.load(_read_text(path), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise TextsError(f"{path}: not valid YAML ({reason}); is the file cut off?") from error
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


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    arrow = require("pyarrow", str(path))
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        table = parquet.read_table(path)
    except (arrow.ArrowInvalid, OSError) as error:
        raise TextsError(f"{path}: not a readable Parquet file ({error})") from error
    for number, record in enumerate(table.to_pylist(), 1):
        yield f"row {number}", flat(record)


def _lines(path: Path) -> list[str]:
    # Only line feeds end a line: str.splitlines would break texts at U+2028 and the like.
    return _read_text(path).rstrip("\r\n").replace("\r\n", "\n").split("\n")


def _read_text(path: Path) -> str:
    content = path.read_bytes()
    if not content.strip():
        raise TextsError(f"{path}: the file is empty; load the published file again")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TextsError(
            f"{path}, line {line}: not UTF-8 (byte {error.start}); expected UTF-8, convert the file"
        ) from error


def _brief(names: list[str]) -> str:
    """Column names for a message."""
    shown = [repr(cut(name)) for name in names[:8]]
    return ", ".join(shown) + (", …" if len(names) > 8 else "")
