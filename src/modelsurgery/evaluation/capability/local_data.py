"""Local copies, in their published form, of data sets that tasks of lm-eval load from the Hub."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelsurgery.data.corpora import corpora
from modelsurgery.data.corpora.sources import corpus_rows, find_corpus
from modelsurgery.data.text_files import csv_fields, read_text
from modelsurgery.errors import TextsError

LETTERS = "ABCD"
Splits = dict[str, list[dict[str, Any]]]


def local_copy(source: str, name: str | None, data: Path) -> Splits | None:
    """Rows of a data set by split, in the form of the Hub; None for one that is not known here.

    The source is its id on the Hub, the name its configuration (a subject of MMLU, a task of BBH);
    local copies have a folder each.

    Raises:
        TextsError: no folder of it, or not in the published form.
    """
    if source not in SOURCES:
        return None
    folder, read = SOURCES[source]
    found = find_corpus(folder, data) if folder in corpora() else data / folder
    if found is None or not found.is_dir():
        raise TextsError(f"{data}: no folder {folder}; expected a copy of its published files")
    return read(found, name or "")


def _gsm8k(folder: Path, _: str) -> Splits:
    return {
        split: [
            {key: row.values[key] for key in ("question", "answer")}
            for row in corpus_rows(corpora()["gsm8k"], folder, split)
        ]
        for split in ("train", "test")
    }


def _bbh(folder: Path, name: str) -> Splits:
    return {"test": _records(folder / "bbh" / f"{name}.json", "examples")}


def _mmlu(folder: Path, subject: str) -> Splits:
    """The published files without a header and with letters, or a copy with both changed."""
    files = {split: folder / split / f"{subject}_{split}.csv" for split in ("dev", "test")}
    return {split: _choices(path) for split, path in files.items() if path.exists()}


def _choices(path: Path) -> list[dict[str, Any]]:
    rows = [fields for _, fields in csv_fields(path)]
    questions = []
    for number, row in enumerate(rows[1:] if rows[0][-1] == "answer" else rows, 1):
        if len(row) != 2 + len(LETTERS) or row[-1] not in (*LETTERS, *"0123"):
            raise TextsError(
                f"{path}, item {number}: expected a question, four answers and which is right "
                "(A-D or 0-3)"
            )
        right = LETTERS.index(row[-1]) if row[-1] in LETTERS else int(row[-1])
        questions.append({"question": row[0], "choices": row[1:-1], "answer": right})
    return questions


def _tydiqa(folder: Path, _: str) -> Splits:
    """The gold passage task."""
    return {split: _squad(folder, part) for split, part in TYDIQA_PARTS.items()}


def _squad(folder: Path, part: str) -> list[dict[str, Any]]:
    files = sorted(folder.glob(f"*goldp*{part}*.json"))
    if not files:
        raise TextsError(f"{folder}: no tydiqa-goldp-*-{part}.json; expected the published file")
    return [
        {
            "id": question["id"],
            "title": article.get("title", ""),
            "context": paragraph["context"],
            "question": question["question"],
            "answers": {"text": [answer["text"] for answer in question["answers"]]},
        }
        for article in _records(files[0], "data")
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def _records(path: Path, key: str) -> list[dict[str, Any]]:
    try:
        content = json.loads(read_text(path))[key]
    except (ValueError, KeyError, TypeError) as error:
        raise TextsError(f"{path}: not readable ({error}); expected JSON with {key!r}") from error
    if not isinstance(content, list):
        raise TextsError(f"{path}: {key!r} is not a list; download the published file again")
    return content


TYDIQA_PARTS = {"train": "train", "validation": "dev"}
SOURCES: dict[str, tuple[str, Callable[[Path, str], Splits]]] = {
    "gsm8k": ("gsm8k", _gsm8k),
    "openai/gsm8k": ("gsm8k", _gsm8k),
    "SaylorTwift/bbh": ("bbh", _bbh),
    "cais/mmlu": ("mmlu", _mmlu),
    "hails/mmlu_no_train": ("mmlu", _mmlu),
    "google-research-datasets/tydiqa": ("tydiqa", _tydiqa),
}
