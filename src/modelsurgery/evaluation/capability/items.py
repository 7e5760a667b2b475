"""Items of tasks, from files in their published form: a prompt with its shots, and its score."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsurgery.data.corpora import corpora, find_corpus
from modelsurgery.data.corpora.sources import corpus_rows
from modelsurgery.data.text_files import csv_fields, read_text
from modelsurgery.errors import TextsError
from modelsurgery.evaluation.capability.published import TASKS

LETTERS = "ABCD"
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
ANSWER = re.compile(r"the answer is (.*?)\.?\s*(?:\n|$)", re.IGNORECASE)
ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@dataclass(frozen=True)
class Question:
    """One item, ready to be asked.

    Attributes:
        identity: which.
        group: subject, task or language.
        prompt: all that the model reads, shots and all.
        answers: right answers; of a choice, the letter.
        is_choice: whether one of four letters is chosen by its likelihood; else text is generated.
        until: texts that end an answer.
    """

    identity: str
    group: str | None
    prompt: str
    answers: tuple[str, ...]
    is_choice: bool = False
    until: tuple[str, ...] = ()


def load_items(task: str, data: Path | None, limit: int | None) -> list[Question]:
    """Items of a task, evenly from its groups; the choice is by a hash, so it is stable.

    Raises:
        TextsError: the data are not there or not in the published form.
    """
    loaders = {"gsm8k": _gsm8k, "bbh": _bbh, "mmlu": _mmlu, "tydiqa": _tydiqa}
    groups: dict[str | None, list[Question]] = {}
    for one in sorted(loaders[task](data), key=_order):
        groups.setdefault(one.group, []).append(one)
    per_group = TASKS[task].per_group
    kept = [(place, one) for some in groups.values() for place, one in enumerate(some[:per_group])]
    kept.sort(key=lambda pair: (pair[0], _order(pair[1])))
    if not kept:
        raise TextsError(f"{task}: no items; expected those of the published files")
    return sorted((one for _, one in kept[:limit]), key=lambda one: one.identity)


def score(task: str, question: Question, text: str) -> float:
    """Score of a generated answer, 0 to 1.

    GSM8K: the number behind `####`, else the last number. BBH: what stands behind "the answer is",
    else the whole. TydiQA: F1 over words, the best of the right answers, as SQuAD counts.
    """
    if task == "gsm8k":
        numbers = NUMBER.findall(text.partition("####")[2]) or NUMBER.findall(text)[-1:]
        return float(bool(numbers) and _number(numbers[0]) == _number(question.answers[0]))
    if task == "bbh":
        found = ANSWER.search(text)
        said = found.group(1) if found else text
        return float(said.strip().rstrip(".") == question.answers[0].strip().rstrip("."))
    return max(_f1(text, answer) for answer in question.answers)


def _gsm8k(data: Path | None) -> list[Question]:
    """Eight shots: the first training problems with their worked solutions."""
    corpus = corpora()["gsm8k"]
    path = None if data is None else _folder("gsm8k", data)
    parts = {
        split: [(row.values["question"], row.values["answer"]) for row in rows]
        for split in ("train", "test")
        if (rows := list(corpus_rows(corpus, path, split)))
    }
    shots = "".join(
        f"Question: {question}\nAnswer: {answer}\n\n"
        for question, answer in parts["train"][: TASKS["gsm8k"].shots]
    )
    return [
        Question(
            f"{number:05d}",
            None,
            f"{shots}Question: {question}\nAnswer:",
            (answer.rpartition("####")[2].strip(),),
            until=("Question:", "\n\n"),
        )
        for number, (question, answer) in enumerate(parts["test"])
    ]


def _bbh(data: Path | None) -> list[Question]:
    """Shots with chains of thought: the authors' own, three a task."""
    folder = _folder("bbh", data)
    questions = []
    for path in sorted((folder / "bbh").glob("*.json")):
        prompts = folder / "cot-prompts" / f"{path.stem}.txt"
        shots = read_text(prompts).partition("-----\n")[2].strip()
        for number, example in enumerate(_json(path, "examples")):
            asked = f"{shots}\n\nQ: {example['input']}\nA: Let's think step by step.\n"
            identity = f"{path.stem}/{number:04d}"
            answers = (example["target"],)
            questions.append(Question(identity, path.stem, asked, answers, until=("Q:", "\n\n")))
    return questions


def _mmlu(data: Path | None) -> list[Question]:
    """The published files without a header and with letters, or a copy with both changed."""
    folder = _folder("mmlu", data)
    questions = []
    for path in sorted((folder / "test").glob("*.csv")):
        subject = path.stem.removesuffix("_test").replace("_", " ")
        rows = [fields for _, fields in csv_fields(read_text(path), str(path))]
        for number, row in enumerate(rows[1:] if rows[0][-1] == "answer" else rows):
            if len(row) != 2 + len(LETTERS) or row[-1] not in (*LETTERS, *"0123"):
                raise TextsError(
                    f"{path}, item {number + 1}: expected a question, four answers and which is "
                    "right (A-D or 0-3)"
                )
            right = row[-1] if row[-1] in LETTERS else LETTERS[int(row[-1])]
            listed = "".join(
                f"{letter}. {answer}\n" for letter, answer in zip(LETTERS, row[1:-1], strict=True)
            )
            asked = (
                f"The following are multiple choice questions (with answers) about {subject}.\n\n"
                f"{row[0]}\n{listed}Answer:"
            )
            identity = f"{subject}/{number:04d}"
            questions.append(Question(identity, subject, asked, (right,), is_choice=True))
    return questions


def _tydiqa(data: Path | None) -> list[Question]:
    """Gold passage task: a passage and a question; the shot is the language's first of training."""
    folder = _folder("tydiqa", data)
    train, dev = (_squad(folder, part) for part in ("train", "dev"))
    shots: dict[str, str] = {}
    for _, language, asked, answers in train:
        shots.setdefault(language, f"{asked} {answers[0]}\n\n")
    return [
        Question(identity, language, shots.get(language, "") + asked, answers, until=("\n",))
        for identity, language, asked, answers in dev
    ]


def _squad(folder: Path, part: str) -> list[tuple[str, str, str, tuple[str, ...]]]:
    files = sorted(folder.glob(f"*goldp*{part}*.json"))
    if not files:
        raise TextsError(f"{folder}: no tydiqa-goldp-*-{part}.json; expected the published file")
    return [
        (
            question["id"],
            question["id"].partition("-")[0],
            f"Passage: {paragraph['context']}\nQuestion: {question['question']}\nAnswer:",
            tuple(answer["text"] for answer in question["answers"]),
        )
        for article in _json(files[0], "data")
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def _folder(task: str, data: Path | None) -> Path:
    if data is None:
        raise TextsError(f"{task}: needs local files; expected --data DIR with a folder {task}")
    found = find_corpus(task, data) if task in corpora() else data / task
    if found is None or not found.is_dir():
        raise TextsError(f"{data}: no folder {task}; expected a copy of its published files")
    return found


def _json(path: Path, key: str) -> list[dict[str, Any]]:
    try:
        content = json.loads(read_text(path))[key]
    except (ValueError, KeyError, TypeError) as error:
        raise TextsError(f"{path}: not readable ({error}); expected JSON with {key!r}") from error
    if not isinstance(content, list):
        raise TextsError(f"{path}: {key!r} is no list; load the published file again")
    return content


def _number(text: str) -> float:
    return float(text.replace(",", "").rstrip("."))


def _f1(text: str, answer: str) -> float:
    said, right = _words(text), _words(answer)
    common = sum((Counter(said) & Counter(right)).values())
    return 2 * common / (len(said) + len(right)) if common else float(said == right)


def _words(text: str) -> Sequence[str]:
    cleaned = "".join(one if one.isalnum() else " " for one in text.lower())
    return ARTICLES.sub(" ", cleaned).split()


def _order(question: Question) -> str:
    return hashlib.sha256(question.identity.encode()).hexdigest()
