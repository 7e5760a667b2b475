"""Public data sets for probing, prompting and judging, loaded in the form they are published in.

What there is stands in `corpora.yaml`; adding one is mostly data. Texts come from a local file or
directory, or from the Hub (the extra `data`). Of a few, small parts ship with the package, packed:
much of them is offensive. Several have no license that would allow it.
"""

import logging
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from modelsurgery.data.choosing import evenly
from modelsurgery.data.corpora.format import Corpus, PromptColumns, TextColumn, corpora
from modelsurgery.data.corpora.reading import Record, cut
from modelsurgery.data.corpora.sources import corpus_rows, find_corpus
from modelsurgery.data.texts import LabeledText, check_texts
from modelsurgery.errors import TextsError

__all__ = [
    "Corpus",
    "Prompt",
    "Question",
    "ScoredText",
    "corpora",
    "find_corpus",
    "load_corpus_passages",
    "load_corpus_prompts",
    "load_corpus_questions",
    "load_corpus_scores",
    "load_corpus_texts",
]

TOXIC_FROM = 0.5  # as RealToxicityPrompts and Civil Comments define toxic
Row = TypeVar("Row")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """A prompt of an evaluation, and what its result is reported by."""

    text: str  # the prompt, without chat template
    # What it is about: category of a jailbreak task, type of XSTest, hate or neutral.
    category: str | None = None
    form: str | None = None  # the jailbreak form that a task is dressed in
    # Identity group (ToxiGen), task in all its forms (Hasan et al.), harmful or harmless
    # (refusal_direction), safe or unsafe (XSTest).
    group: str | None = None
    # Whether it is a user's turn, for the chat template; else it is to be gone on with.
    chat: bool = False
    toxicity: float | None = None  # stored probability that the prompt is toxic, 0 to 1
    # The same of how the text went on where it was found.
    continuation_toxicity: float | None = None


@dataclass(frozen=True)
class ScoredText:
    """A text with the share of raters, or the probability, that call it toxic, 0 to 1."""

    text: str
    score: float


@dataclass(frozen=True)
class Question:
    """A question with its one right answer."""

    question: str
    answer: str


def load_corpus_texts(
    name: str,
    path: Path | str | None = None,
    *,
    split: str | None = None,
    shows: Collection[str] | None = None,
    opposite: Collection[str] | None = None,
    per_class: int | None = None,
    unique: bool = True,
    seed: int = 0,
) -> tuple[LabeledText, ...]:
    """Labeled texts of a corpus, in the order of its files.

    Args:
        name: one of `corpora()`.
        path: a file or directory with a copy; None loads it from the Hub.
        split: `train`, `test`, …; None takes the first that is there.
        shows: classes that get label 1; None takes the usual ones.
        opposite: classes that get label 0; None takes the usual ones. Other classes are left out,
            and so are texts with labels of several classes.
        per_class: at most so many texts of each label; both take groups in the same order, so
            that most stay whole.
        unique: drop repeated texts, and altogether those that stand there with both labels.
        seed: of the choice of `per_class`: by a hash of group (or text) and seed, so it is stable.

    Raises:
        TextsError: not there, not in the published form, or too few texts for a probe.

    Example:
        >>> texts = load_corpus_texts("goemotions", "goemotions", opposite=["positive", "neutral"])
    """
    corpus = _corpus(name, "texts")
    labels = _labels(corpus, shows, opposite)
    texts = _labeled(corpus, corpus_rows(corpus, path, split), labels)
    kept = check_texts(texts, str(path or name)) if unique else tuple(texts)
    # Not the hash that `split_texts` sorts by: the first of many would all be held out.
    keys = [f"choice\0{text.group or text.text}" for text in kept]
    return _some_of_each(kept, keys, [text.label for text in kept], per_class, seed)


def load_corpus_prompts(
    name: str,
    path: Path | str | None = None,
    *,
    split: str | None = None,
    where: Mapping[str, Collection[str]] | None = None,
    per_file: int | None = None,
    unique: bool = False,
    seed: int = 0,
) -> tuple[Prompt, ...]:
    """Prompts of a corpus, in the order of its files.

    Args:
        name: one of `corpora()`.
        path: a file or directory with a copy; None loads it from the Hub.
        split: `train`, `test`, …; None takes the first that is there.
        where: accepted values by column; None takes the usual ones (the challenging prompts of
            RealToxicityPrompts, the negative sentences of dair_emotion), {} takes all rows.
        per_file: at most so many of each file; None takes the usual number (100 for ToxiGen, as in
            the paper, else all).
        unique: keep the first of prompts with the same text. Published numbers count them all.
        seed: of the choice inside a file: by a hash of text and seed, so it is stable.

    Raises:
        TextsError: not there, not in the published form, or no prompts left.

    Example:
        >>> prompts = load_corpus_prompts("xstest", "xstest", where={"label": ["safe"]})
    """
    corpus = _corpus(name, "prompts")
    columns = corpus.prompts
    assert columns is not None
    accepted = {
        column: _several(values)
        for column, values in (columns.where if where is None else where).items()
    }
    prompts: list[Prompt] = []
    files: list[str] = []
    seen: set[str] = set()
    for row in corpus_rows(corpus, path, split):
        if all(set(row.names(column)) & values for column, values in accepted.items()):
            prompt = _prompt(row, columns)
            if not (unique and prompt.text in seen):
                prompts.append(prompt)
                files.append(row.file)
                seen.add(prompt.text)
    if not prompts:
        wanted = ", ".join(f"{column} in {sorted(values)}" for column, values in accepted.items())
        raise TextsError(f"{path or name}: no prompts with {wanted}; expected some")
    limit = columns.per_file if per_file is None else per_file
    return _some_of_each(prompts, [prompt.text for prompt in prompts], files, limit, seed)


def load_corpus_scores(
    name: str, path: Path | str | None = None, *, split: str | None = None
) -> tuple[ScoredText, ...]:
    """Texts with stored toxicity scores, to compare a judge with; those without are left out.

    Raises:
        TextsError: not there, not in the published form, or a corpus without scores.
    """
    corpus = _corpus(name, "texts")
    columns = [(one.column, one.score) for one in corpus.texts if one.score is not None]
    if not columns:
        raise TextsError(f"{name}: its texts have labels instead of scores; use load_corpus_texts")
    scored = []
    for row in corpus_rows(corpus, path, split):
        for column, score_column in columns:
            score = row.score(score_column)
            if score is not None:
                scored.append(ScoredText(row.text(column), score))
    return tuple(scored)


def load_corpus_questions(
    name: str, path: Path | str | None = None, *, split: str | None = None
) -> tuple[Question, ...]:
    """Questions with their answers: GSM8K's final number, LAMBADA's last word.

    Raises:
        TextsError: not there, not in the published form, or no answer where it should be.
    """
    corpus = _corpus(name, "questions")
    columns = corpus.questions
    assert columns is not None
    questions = []
    column = columns.answer or columns.question
    for row in corpus_rows(corpus, path, split):
        found = columns.pattern.fullmatch(row.text(column))
        if found is None:
            raise TextsError(
                f"{row.where}: no answer; expected {columns.pattern.pattern!r} in {column!r}"
            )
        parts = found.groupdict()
        question = parts.get("question") or row.text(columns.question)
        questions.append(Question(question, parts["answer"]))
    return tuple(questions)


def load_corpus_passages(
    name: str, path: Path | str | None = None, *, split: str | None = None
) -> tuple[str, ...]:
    """Running text, a file's at a time, byte for byte as published.

    Raises:
        TextsError: not there or not UTF-8.
    """
    corpus = _corpus(name, "passages")
    assert corpus.passages is not None
    return tuple(row.text(corpus.passages) for row in corpus_rows(corpus, path, split))


def _corpus(name: str, part: str) -> Corpus:
    having = {one: corpus for one, corpus in corpora().items() if getattr(corpus, part)}
    if name not in having:
        wrong = f"{name}: has no {part}" if name in corpora() else f"no corpus {name!r}"
        raise TextsError(f"{wrong}; corpora with {part}: {', '.join(having)}")
    return having[name]


def _labels(
    corpus: Corpus, shows: Collection[str] | None, opposite: Collection[str] | None
) -> dict[str, int]:
    """Label by class."""
    chosen = {
        1: sorted(_several(corpus.shows if shows is None else shows)),
        0: sorted(_several(corpus.opposite if opposite is None else opposite)),
    }
    labels: dict[str, int] = {}
    for label, classes in chosen.items():
        for one in classes:
            if one not in corpus.classes:
                known = ", ".join(corpus.classes)
                raise TextsError(f"{corpus.name}: no class {one!r}; expected some of {known}")
            if labels.setdefault(one, label) != label:
                raise TextsError(
                    f"{corpus.name}: class {one!r} under both shows and opposite; expected it "
                    "under one of them"
                )
    return labels


def _labeled(
    corpus: Corpus, rows: Iterable[Record], labels: Mapping[str, int]
) -> list[LabeledText]:
    texts = []
    left_out = 0
    for row in rows:
        for column in corpus.texts:
            if column.optional and not row.has(column.column):
                continue
            text = row.text(column.column)
            label = labels.get(_class(corpus, column, row) or "")
            if label is None:
                left_out += 1
                continue
            group = None if corpus.group is None else row.text(corpus.group)
            texts.append(LabeledText(text, label, group))
    if left_out:
        log.info("%s: skipped %d texts with other, several or no classes", corpus.name, left_out)
    return texts


def _class(corpus: Corpus, column: TextColumn, row: Record) -> str | None:
    """The class of a text; None for one of several classes or without a score."""
    if column.is_class is not None:
        return column.is_class
    if column.score is not None:
        score = row.score(column.score)
        return None if score is None else "toxic" if score >= TOXIC_FROM else "other"
    assert corpus.label is not None
    found = set()
    for label in row.names(corpus.label.column):
        classes = [name for name, labels in corpus.label.classes.items() if label in labels]
        if not classes:
            known = [one for labels in corpus.label.classes.values() for one in labels]
            raise TextsError(
                f"{row.where}: label {cut(label)!r}; expected one of {', '.join(known)}"
            )
        found.update(classes)
    return found.pop() if len(found) == 1 else None


def _prompt(row: Record, columns: PromptColumns) -> Prompt:
    return Prompt(
        text=row.text(columns.text),
        category=row.name(columns.category),
        form=row.name(columns.form),
        group=row.name(columns.group),
        chat=columns.chat,
        toxicity=row.score(columns.toxicity),
        continuation_toxicity=row.score(columns.continuation_toxicity),
    )


def _some_of_each(
    rows: Sequence[Row],
    keys: Sequence[str],
    kinds: Sequence[Hashable],
    limit: int | None,
    seed: int,
) -> tuple[Row, ...]:
    """At most `limit` rows of each kind, in their order: see `evenly`."""
    if limit is None:
        return tuple(rows)
    if limit < 1:
        raise TextsError(f"at most {limit} texts; expected per_class or per_file of 1 or more")
    chosen = evenly(keys, kinds=kinds, per_kind=limit, seed=seed)
    return tuple(rows[number] for number in sorted(chosen))


def _several(names: Collection[str]) -> set[str]:
    """Names as a set; a lone name is one of them, not a set of letters."""
    return {names} if isinstance(names, str) else set(names)
