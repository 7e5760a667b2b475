"""The rows of a corpus: which files of a directory it is, or which data set of the Hub."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path

from modelsurgery.data.corpora.format import Corpus, Label, corpora
from modelsurgery.data.corpora.reading import Record, flat, read_records
from modelsurgery.data.text_files import load_data_set
from modelsurgery.errors import TextsError

PACKAGED_DIRECTORY = Path(str(resources.files("modelsurgery.data.corpora"))) / "packaged"
log = logging.getLogger(__name__)


def corpus_rows(corpus: Corpus, path: Path | str | None, split: str | None) -> Iterator[Record]:
    """All rows of a corpus, files in the order of their names; a row that is there twice, once.

    The path is a file; a directory, either the published repository or the folder with the files;
    or None for the package's own files, or else the Hub. Without a split, of a directory or of the
    Hub, the first that is there is taken.

    Raises:
        TextsError: not there, wrong in any way, or two different rows with one id.
    """
    if path is None and corpus.packaged:
        path = PACKAGED_DIRECTORY
    if path is None:
        rows = _hub_rows(corpus, split)
    else:
        files = _files(corpus, Path(path), split)
        rows = (row for file in files for row in read_records(file, corpus.format))
    count = 0
    for row in _once(corpus, (_with_our_columns(corpus, row) for row in rows)):
        count += 1
        yield row
    if not count:
        raise TextsError(f"{path or corpus.name}: no rows; expected {corpus.published}")


def find_corpus(name: str, root: Path) -> Path | None:
    """Directory of a corpus below a directory with local copies, a folder each; None without one.

    The folder has the name of the corpus or one that copies of it usually have.
    """
    folders = (name, *corpora()[name].folders)
    return next((root / folder for folder in folders if (root / folder).is_dir()), None)


def _files(corpus: Corpus, path: Path, split: str | None) -> list[Path]:
    if path.is_file():
        if split is not None:
            raise TextsError(f"{path}: a file has no split {split!r}; expected a directory")
        return [path]
    if not path.is_dir():
        raise TextsError(
            f"no file or directory at {path}; expected {corpus.title}, published at {corpus.home}"
        )
    if split is not None and split not in corpus.files:
        raise TextsError(
            f"{corpus.name}: no split {split!r}; expected one of {', '.join(corpus.files)}"
        )
    wanted = corpus.files if split is None else {split: corpus.files[split]}
    for patterns in wanted.values():
        found = [_matching(path, pattern) for pattern in patterns]
        if all(found):
            return sorted({file for files in found for file in files})
    expected = " or ".join(" with ".join(patterns) for patterns in wanted.values())
    raise TextsError(f"{path}: no files of {corpus.name}; expected {expected}")


def _matching(directory: Path, pattern: str) -> list[Path]:
    """Files of the pattern, seen from the published repository or from a folder inside it."""
    parts = Path(pattern).parts
    for start in range(len(parts)):
        tail = str(Path(*parts[start:]))
        if found := [file for file in directory.glob(tail) if file.is_file()]:
            return found
    return []


def _with_our_columns(corpus: Corpus, row: Record) -> Record:
    values = row.values
    if corpus.hub is not None and corpus.hub.rename:
        values = {corpus.hub.rename.get(name, name): value for name, value in values.items()}
    if corpus.format.unescape and isinstance(text := values.get("text"), str):
        # The order of open-instruct's ToxiGen evaluation: doubled backslashes come out alike.
        values = values | {"text": text.replace("\\\\", "\\").replace("\\n", "\n")}
    label = corpus.label
    if label is not None and label.names and label.column in values:
        labels = [_name(one, label.names) for one in _labels(values[label.column], label)]
        values = values | {label.column: labels if len(labels) > 1 else labels[0]}
    if corpus.file_name is not None:
        parts = corpus.file_name.fullmatch(row.file)
        if parts is None:
            raise TextsError(
                f"{row.where}: the name {row.file!r} does not say what is in the file; expected "
                f"one of {', '.join(p for ps in corpus.files.values() for p in ps)}"
            )
        values = values | parts.groupdict()
    return replace(row, values=values)


def _labels(value: object, label: Label) -> list[object]:
    """A row's labels: a list on the Hub, separated in files; at least one."""
    if isinstance(value, list):
        return value or [None]
    if isinstance(value, str) and label.separator is not None:
        return list(value.split(label.separator))
    return [value]


def _name(label: object, names: list[str]) -> object:
    """The name of a label that is stored as a number; anything else as it is."""
    digits = str(label)
    if digits.isascii() and digits.isdigit() and int(digits) < len(names):
        return names[int(digits)]
    return label


def _once(corpus: Corpus, rows: Iterable[Record]) -> Iterator[Record]:
    """Rows without repetitions of one id."""
    seen: dict[tuple[str, ...], Record] = {}
    repeated = 0
    for row in rows:
        # Copies on the Hub may have no ids.
        if not corpus.id or not all(column in row.values for column in corpus.id):
            yield row
            continue
        key = tuple(str(row.values[column]) for column in corpus.id)
        first = seen.setdefault(key, row)
        if first is row:
            yield row
        elif first.values == row.values:
            repeated += 1
        else:
            raise TextsError(
                f"{row.where}: the id {' '.join(key)} occurs at {first.where} with other content; "
                "expected unique ids, download the published files again"
            )
    if repeated:
        log.info("%s: skipped %d duplicate rows", corpus.name, repeated)


def _hub_rows(corpus: Corpus, split: str | None) -> Iterator[Record]:
    source = corpus.hub
    if source is None:
        raise TextsError(f"{corpus.name}: not on the Hub; give the path of a copy of {corpus.home}")
    if split is not None and split not in source.splits:
        raise TextsError(
            f"{corpus.name}: no split {split!r} on the Hub; expected "
            f"{', '.join(source.splits) or 'none, all are taken'}"
        )
    ours = split or next(iter(source.splits), None)
    theirs = None if ours is None else source.splits[ours]
    loaded = load_data_set(
        source.id,
        corpus.name,
        f"or give the path of a copy of {corpus.home}",
        name=source.config,
        split=theirs,
        revision=source.revision,
    )
    parts = loaded.items() if theirs is None else [(theirs, loaded)]
    for name, records in parts:
        for number, record in enumerate(records, 1):
            yield Record(f"hub:{source.id}, {name} row {number}", str(name), flat(dict(record)))
