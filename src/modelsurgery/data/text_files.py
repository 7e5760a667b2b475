"""Files of text as rows: lines, JSON lines, JSON, CSV, TSV, Parquet, and data sets of the Hub.

A row is a place in its file, for messages, and values by column. What the columns mean is for
others to say: `texts` for files of your own, `corpora` for public data sets.
"""

import csv
import gzip
import importlib
import io
import json
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from modelsurgery.errors import TextsError

HUB_PREFIX = "hub:"
Rows = Iterator[tuple[str, dict[str, Any]]]


def is_on_hub(source: Path | str) -> bool:
    """Whether a source is `hub:NAME[:SPLIT]` and no file."""
    return str(source).startswith(HUB_PREFIX)


def read_rows(source: Path | str) -> Rows:
    r"""The rows of a file, by its suffix in any case, or of `hub:NAME[:SPLIT]`.

    A line of a .txt file is the column `text`; `\n` in it stands for a line break. An item of a
    .json file is an object, or a text, which is the column `text` too.

    Raises:
        TextsError: missing, empty, not UTF-8, of another kind, or not in the form of its kind.
    """
    if is_on_hub(source):
        yield from _hub_rows(str(source))
        return
    path = Path(source)
    readers: dict[str, Callable[[Path], Rows]] = {
        ".txt": _text_rows,
        ".jsonl": json_line_rows,
        ".json": partial(json_item_rows, may_be_texts=True),
        ".csv": _table_rows,
        ".tsv": _table_rows,
        ".parquet": parquet_rows,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise TextsError(
            f"{path}: unknown kind of file {path.suffix!r}; expected {', '.join(readers)} or "
            f"{HUB_PREFIX}NAME"
        )
    for place, row in reader(path):
        yield f"{path}, {place}", row


def checked_text(value: object, where: str, name: str) -> str:
    """A text that a tokenizer can read: JSON can spell half a surrogate pair, which none can.

    Raises:
        TextsError: no text, an empty one, or half a surrogate pair.
    """
    if not isinstance(value, str) or not value.strip():
        raise TextsError(f"{where}: {name} is empty or not text; expected a non-empty string")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise TextsError(f"{where}: {name} has half a surrogate pair; expected valid Unicode")
    return value


def json_line_rows(path: Path) -> Rows:
    """One object a line."""
    for number, line in enumerate(read_lines(path), 1):
        place = f"line {number}"
        if not line.strip():
            raise TextsError(
                f"{path}, {place}: the line is empty; expected a JSON object, delete the line"
            )
        record = _parsed(line, f"{path}, {place}", "one object per line")
        yield place, _record(record, f"{path}, {place}")


def json_item_rows(path: Path, *, may_be_texts: bool = False) -> Rows:
    """A list of objects, or of texts where that is allowed: the column `text`."""
    expected = "one list of objects (for one object per line use the suffix .jsonl)"
    items = _parsed(read_text(path), str(path), expected)
    if not isinstance(items, list):
        raise TextsError(f"{path}: {type(items).__name__}; expected a list of objects")
    for number, item in enumerate(items, 1):
        place = f"item {number}"
        is_text = may_be_texts and isinstance(item, str)
        yield place, {"text": item} if is_text else _record(item, f"{path}, {place}")


def parquet_rows(path: Path) -> Rows:
    """The rows of a Parquet file (extra `data`)."""
    arrow = require("pyarrow", str(path))
    parquet = importlib.import_module("pyarrow.parquet")
    if not path.is_file():
        raise _missing(path)
    try:
        table = parquet.read_table(path)
    except (arrow.ArrowInvalid, OSError) as error:
        raise TextsError(f"{path}: not a readable Parquet file ({error})") from error
    for number, record in enumerate(table.to_pylist(), 1):
        yield f"row {number}", record


def delimited_fields(
    path: Path, delimiter: str, *, is_quoted: bool
) -> Iterator[tuple[int, list[str]]]:
    """Number of the last line, and fields, of each line of a table.

    Fields may stand in quotation marks where `is_quoted`; else these are ordinary characters, as in
    most tab-separated data sets.
    """
    if is_quoted:
        yield from csv_fields(path, delimiter)
        return
    for number, line in enumerate(read_lines(path), 1):
        yield number, line.split(delimiter)


def csv_fields(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Number of the last line, and fields, of each record of CSV; a field may have any length.

    Raises:
        TextsError: quotation marks that are not doubled inside a field, or never closed.
    """
    content = read_text(path)
    # The limit is the process's, so it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))
    # strict: otherwise \" would end a field and garble it, and a file that is cut off within
    # quotation marks would have a long last field.
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        for fields in reader:
            yield reader.line_num, fields
    except csv.Error as error:
        raise TextsError(
            f"{path}, line {reader.line_num}: {error}; expected CSV with quotation marks inside a "
            'field written twice (""), is the file truncated?'
        ) from error


def read_lines(path: Path) -> list[str]:
    """The lines of a file of UTF-8."""
    # Only line feeds end a line: str.splitlines would break texts at U+2028 and the like.
    return read_text(path).rstrip("\r\n").replace("\r\n", "\n").split("\n")


def read_text(path: Path) -> str:
    """The content of a file of UTF-8, which may be compressed (.gz), without a byte order mark.

    Raises:
        TextsError: missing, empty, not UTF-8 or not whole.
    """
    if not path.is_file():
        raise _missing(path)
    content = path.read_bytes()
    if path.suffix.lower() == ".gz":
        content = _decompressed(path, content)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TextsError(
            f"{path}, line {line}: not UTF-8 (byte {error.start}); expected UTF-8, convert the file"
        ) from error
    if not text.strip():
        raise TextsError(f"{path}: the file is empty; expected some texts")
    return text


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


def load_data_set(identity: str, wanted_by: str, otherwise: str, **options: Any) -> Any:
    """A data set of the Hub, with options of `datasets.load_dataset`.

    The message of an error begins with who wants it, and ends with what can be done otherwise.

    Raises:
        TextsError: it cannot be loaded.
    """
    datasets = require("datasets", wanted_by)
    try:
        return datasets.load_dataset(identity, **options)
    # What comes besides its own: ConnectionError (offline, gated), ValueError (unknown
    # configuration or split), RuntimeError (a data set that is a script).
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise TextsError(
            f"{wanted_by}: cannot load {identity} from the Hub ({reason}); {otherwise}"
        ) from error


def _text_rows(path: Path) -> Rows:
    for number, line in enumerate(read_lines(path), 1):
        yield f"line {number}", {"text": line.replace("\\n", "\n")}


def _table_rows(path: Path) -> Rows:
    """A table with a header; blank lines are no rows."""
    is_csv = path.suffix.lower() == ".csv"
    fields = delimited_fields(path, "," if is_csv else "\t", is_quoted=is_csv)
    _, names = next(fields)
    if repeated := [name for name in names if names.count(name) > 1]:
        raise TextsError(f"{path}, line 1: two columns {repeated[0]!r}; expected different names")
    for line, values in fields:
        if values in ([], [""]):
            continue
        if len(values) != len(names):
            raise TextsError(
                f"{path}, line {line}: {len(values)} columns; expected {len(names)}, as in the "
                "header"
            )
        yield f"line {line}", dict(zip(names, values, strict=True))


def _hub_rows(source: str) -> Rows:
    name, _, split = source.removeprefix(HUB_PREFIX).partition(":")
    otherwise = f"expected {HUB_PREFIX}NAME or {HUB_PREFIX}NAME:SPLIT, or give a file"
    data_set = load_data_set(name, source, otherwise, split=split or "train")
    for number, row in enumerate(data_set, 1):
        yield f"{source}, row {number}", dict(row)


def _parsed(content: str, where: str, expected: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TextsError(
            f"{where}: not valid JSON ({error}); expected {expected}, is the file truncated?"
        ) from error


def _record(record: object, where: str) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise TextsError(f"{where}: {type(record).__name__}; expected a JSON object")
    return record


def _decompressed(path: Path, content: bytes) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise TextsError(
            f"{path}: incomplete ({error}); download the published file again"
        ) from error


def _missing(path: Path) -> TextsError:
    return TextsError(f"no file at {path}; expected a file of texts")
