"""A behavior's labeled texts: of files, of public data sets, or of the demo data."""

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path

from modelsurgery.data import demo
from modelsurgery.data.behaviors.format import BehaviorFile, CorpusTexts, Replies, TextFiles
from modelsurgery.data.behaviors.roots import locate_corpus
from modelsurgery.data.corpora import load_corpus_texts
from modelsurgery.data.texts import LabeledText, check_texts, load_lines, load_texts
from modelsurgery.errors import TextsError


@cache  # each step of a sequence asks for all behaviors again
def demo_texts(name: str, count: int, seed: int) -> tuple[LabeledText, ...]:
    """Texts of a behavior; two in a row belong together.

    Whether to refuse depends on the request: those of refusal are requests with their answers.
    """
    if name == "refusal":
        return tuple(
            LabeledText(request, int(refused), str(number // 2), answer, called_for=naughty)
            for number, (request, answer, refused, naughty) in enumerate(
                demo.exchanges(count, seed)
            )
        )
    return tuple(
        LabeledText(text, label, group=str(number // 2))
        for number, (text, label) in enumerate(demo.labeled_texts(name, count, seed))
    )


def texts_of(described: BehaviorFile, data: Path | None) -> tuple[LabeledText, ...]:
    """Texts from the files or the public data sets that a behavior names.

    Raises:
        TextsError: a file or a copy that cannot be used, or a behavior of the demo model alone.
    """
    texts = described.texts
    if isinstance(texts, Path):
        return load_texts(
            texts, text_column=described.text_column, label_column=described.label_column
        )
    if isinstance(texts, TextFiles):
        lines = [(texts.shows, 1), (texts.opposite, 0)]
        found = [LabeledText(line, label) for file, label in lines for line in load_lines(file)]
        return check_texts(found, f"{texts.shows} and {texts.opposite}")
    if texts is None:
        raise TextsError(
            f"behavior {described.name!r} has texts for the demo model only; for another model "
            "use --texts FILE or another behavior"
        )
    pooled = [text for corpus in texts for text in _corpus_texts(corpus, data)]
    return check_texts(pooled, described.name)


def _corpus_texts(wanted: CorpusTexts, data: Path | None) -> tuple[LabeledText, ...]:
    texts = load_corpus_texts(
        wanted.corpus,
        locate_corpus(wanted.corpus, data),
        split=wanted.split,
        shows=wanted.shows,
        opposite=wanted.opposite,
        per_class=wanted.per_class,
    )
    if wanted.replies is None:
        return texts
    return tuple(
        answered
        for text in texts
        for answered in _answered(text, wanted.replies, called_for=wanted.called_for)
    )


def _answered(text: LabeledText, replies: Replies, *, called_for: bool) -> list[LabeledText]:
    """A user's turn, answered in either way; which of the phrases depends on the turn alone."""
    number = int.from_bytes(hashlib.sha256(text.text.encode()).digest()[:4])
    return [
        replace(
            text,
            label=label,
            group=text.group or text.text,
            reply=phrases[number % len(phrases)],
            called_for=text.label == 1 if called_for else None,
        )
        for label, phrases in ((1, replies.shows), (0, replies.opposite))
    ]
