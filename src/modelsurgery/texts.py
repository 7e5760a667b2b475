"""Labelled texts: reading them, checking them, splitting them.

A label of 1 says that the text shows the behavior, 0 that it shows its opposite. Files are JSON
lines, CSV, TSV or Parquet with a text and a label column, or a data set of the Hub
(`hub:NAME[:SPLIT]`; the extra `data`). A column `group` keeps related texts (a sentence and its
rewrite) on one side of the split.
"""

import csv
import hashlib
import importlib
import importlib.util
import io
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsurgery.errors import TextsError
from modelsurgery.files import sha256_json

MIN_TEXTS = 20
LABELS = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), 1),
    **dict.fromkeys(("0", "0.0", "false", "no"), 0),
}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledText:
    """A text and whether it shows the behavior.

    Attributes:
        text: the text.
        label: 1 shows the behavior, 0 its opposite.
        group: texts of one group stay on one side of a split; None is a group of its own.
        reply: what an assistant answers to it; the text is a user's turn then.
        called_for: whether the text, a request, calls for the behavior; None where the behavior
            does not depend on what was asked.
    """

    text: str
    label: int
    group: str | None = None
    reply: str | None = None
    called_for: bool | None = None


@dataclass(frozen=True)
class Split:
    """Texts for fitting and texts held out from it; they share no text and no group."""

    train: tuple[LabelledText, ...]
    held_out: tuple[LabelledText, ...]


def load_texts(
    source: Path | str, *, text_column: str = "text", label_column: str = "label"
) -> tuple[LabelledText, ...]:
    """Read labelled texts, in the order of the file.

    Args:
        source: a .jsonl, .csv, .tsv or .parquet file, or `hub:NAME[:SPLIT]`.
        text_column: name of the column with the text.
        label_column: name of the column with the label: 1/0, true/false or yes/no.

    Raises:
        TextsError: the file cannot be used, with the line that says why.
    """
    texts = []
    for where, row in _rows(source):
        for column in (text_column, label_column):
            if column not in row:
                raise TextsError(
                    f"{where}: no column {column!r}; expected {text_column!r} and "
                    f"{label_column!r}, found {', '.join(map(repr, row)) or 'nothing'}"
                )
        text, label = row[text_column], row[label_column]
        if not isinstance(text, str) or not text.strip():
            raise TextsError(f"{where}: the text is empty; expected some words, remove the line")
        if not _is_unicode(text):
            raise TextsError(f"{where}: the text holds half a surrogate pair; expected Unicode")
        known = LABELS.get(str(label).strip().lower())
        if known is None:
            raise TextsError(f"{where}: label {label!r}; expected 1 (shows the behavior) or 0")
        group = row.get("group")
        texts.append(LabelledText(text, known, None if group in (None, "") else str(group)))
    return check_texts(texts, str(source))


def check_texts(texts: Sequence[LabelledText], where: str) -> tuple[LabelledText, ...]:
    """Drop repeated texts and refuse what no probe can learn from.

    A text that stands there with both labels is dropped altogether (with a reply: that exchange).

    Raises:
        TextsError: fewer than 20 texts, or one class only.
    """
    labels: dict[tuple[str, str | None], set[int]] = {}
    for text in texts:
        labels.setdefault((text.text, text.reply), set()).add(text.label)
    contradictory = {key for key, seen in labels.items() if len(seen) > 1}
    kept: dict[tuple[str, str | None], LabelledText] = {}
    for text in texts:
        key = (text.text, text.reply)
        if key not in contradictory:
            kept.setdefault(key, text)
    unique = tuple(kept.values())
    if len(unique) < len(texts):
        log.warning(
            "%s: dropped %d repeated texts (%d stood there with both labels)",
            where,
            len(texts) - len(unique),
            len(contradictory),
        )
    if len(unique) < MIN_TEXTS:
        raise TextsError(
            f"{where}: {len(unique)} different texts; expected at least {MIN_TEXTS}, "
            "a few hundred of each label are better"
        )
    classes = {text.label for text in unique}
    if len(classes) < 2:
        raise TextsError(
            f"{where}: every label is {classes.pop()}; expected texts with 1 (the "
            "behavior) and with 0 (its opposite)"
        )
    return unique


def split_texts(texts: Sequence[LabelledText], *, held_out: float = 0.2, seed: int = 0) -> Split:
    """Split by a hash of group (or text) and seed: stable under reordering and additions.

    Args:
        texts: unique texts.
        held_out: share to hold out, about; both sides get both labels.
        seed: another seed, another split.

    Raises:
        TextsError: one side would lack a label (too few texts or one large group).
    """
    order = sorted(texts, key=lambda text: (_split_key(text, seed), text.text, text.reply or ""))
    train: list[LabelledText] = []
    held: list[LabelledText] = []
    for label in (0, 1):
        of_label = [text for text in order if text.label == label]
        held.extend(of_label[: max(1, round(held_out * len(of_label)))])
    held_groups = {text.group for text in held} - {None}
    chosen = set(held)
    for text in order:
        if text not in chosen:
            (held if text.group in held_groups else train).append(text)
    for side, name in ((train, "train"), (held, "held-out")):
        if {text.label for text in side} != {0, 1}:
            raise TextsError(
                f"the {name} part would lack a label; expected more texts or smaller groups"
            )
    return Split(tuple(train), tuple(held))


def texts_sha256(texts: Iterable[LabelledText]) -> str:
    """Hash of the texts and labels, in order."""
    return sha256_json([list(_identity(text)) for text in texts])


def load_lines(path: Path | str) -> tuple[str, ...]:
    r"""Read prompts or neutral texts: one a line (.txt), or a `prompt`/`text` field (.jsonl).

    In a .txt file, `\n` stands for a line break inside a prompt.

    Raises:
        TextsError: missing, empty, not UTF-8, or a line without text.
    """
    path = Path(path)
    if path.suffix != ".jsonl":
        lines = [line.replace("\\n", "\n") for line in _lines(path)]
    else:
        lines = [_prompt_of(where, row) for where, row in _json_lines(path)]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise TextsError(f"{path}, line {number}: empty; expected a text, remove the line")
        if not _is_unicode(line):
            raise TextsError(f"{path}, line {number}: half a surrogate pair; expected Unicode")
    return tuple(lines)


def _prompt_of(where: str, row: dict[str, Any]) -> str:
    for key in ("prompt", "text"):
        value = row.get(key)
        if isinstance(value, dict):  # RealToxicityPrompts: {"prompt": {"text": …}}
            value = value.get("text")
        if isinstance(value, str):
            return value
    raise TextsError(f"{where}: no field 'prompt' or 'text'; found {', '.join(map(repr, row))}")


def _is_unicode(text: str) -> bool:
    """False for half a surrogate pair: JSON can spell one, no tokenizer can read it."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _identity(text: LabelledText) -> tuple[str | int | None, ...]:
    parts = (text.text, text.label, text.group)
    return parts if text.reply is None else (*parts, text.reply)


def _split_key(text: LabelledText, seed: int) -> bytes:
    name = text.text if text.group is None else text.group
    return hashlib.sha256(f"{seed}\0{name}".encode(errors="surrogatepass")).digest()


def _rows(source: Path | str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(source, str) and source.startswith("hub:"):
        return _hub_rows(source)
    path = Path(source)
    readers = {".jsonl": _json_lines, ".csv": _delimited, ".tsv": _delimited, ".parquet": _parquet}
    reader = readers.get(path.suffix)
    if reader is None:
        raise TextsError(
            f"{path}: unknown kind of file {path.suffix!r}; expected "
            f"{', '.join(readers)} or hub:NAME"
        )
    return reader(path)


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            raise TextsError(f"{where}: empty; expected a JSON object, remove the line")
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TextsError(f"{where}: not valid JSON ({error}); expected one object") from error
        if not isinstance(row, dict):
            raise TextsError(f"{where}: {type(row).__name__}; expected a JSON object")
        yield where, row


def _delimited(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    tabs = path.suffix == ".tsv"
    # Tab-separated data sets (ParaDetox, GoEmotions) hold bare quotation marks.
    reader = csv.DictReader(
        io.StringIO(_read_text(path), newline=""),
        delimiter="\t" if tabs else ",",
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
    )
    try:
        for row in reader:
            if None in row or None in row.values():
                raise TextsError(
                    f"{path}, line {reader.line_num}: another number of columns than "
                    f"the header's {len(reader.fieldnames or ())}"
                )
            yield f"{path}, line {reader.line_num}", row
    except csv.Error as error:
        raise TextsError(f"{path}, line {reader.line_num}: {error}; expected CSV") from error


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    _require("pyarrow", path)
    if not path.is_file():
        raise TextsError(f"no file at {path}; expected labelled texts")
    parquet = importlib.import_module("pyarrow.parquet")
    for number, row in enumerate(parquet.read_table(path).to_pylist(), 1):
        yield f"{path}, row {number}", row


def _hub_rows(source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    _require("datasets", source)
    name, _, split = source.removeprefix("hub:").partition(":")
    data_set = importlib.import_module("datasets").load_dataset(name, split=split or "train")
    for number, row in enumerate(data_set, 1):
        yield f"{source}, row {number}", dict(row)


def _require(package: str, source: Path | str) -> None:
    if importlib.util.find_spec(package) is None:
        raise TextsError(f"{source}: needs the package {package}; pip install 'modelsurgery[data]'")


def _lines(path: Path) -> list[str]:
    return _read_text(path).rstrip("\r\n").replace("\r\n", "\n").split("\n")


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise TextsError(f"no file at {path}; expected a file of texts")
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TextsError(
            f"{path}, line {line}: not UTF-8 (byte {error.start}); expected UTF-8, convert the file"
        ) from error
