"""Tokens as people can read them, and which of them not everybody wants to read.

A token's text comes from a stranger's file: it is shortened, and nothing in it can move a cursor.
Whether it is offensive is said by the toxicity classifier that ships with the package, and by the
demo model's own vocabulary; there is no list of words. Who shows a token decides what to mask.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from modelsurgery.data.demo.lexicon import markers, words_of
from modelsurgery.evaluation.classifiers import load_classifier

SPACE = "·"
MOST_LETTERS = 32
OFFENSIVE = 0.5  # the classifier's probability from which a token is masked
UNREADABLE = "\N{REPLACEMENT CHARACTER}"  # what decoders make of a part of a character


class Token(NamedTuple):
    """A token with a number."""

    text: str  # readable; spaces are `·`, control characters escaped
    value: float  # its logit, as `lens` scales it
    is_offensive: bool  # whether to mask it where it is shown


def named_tokens(tokenizer: Any, entries: Sequence[tuple[int, float]]) -> tuple[Token, ...]:
    """Tokens of (id, value)."""
    texts = [readable(tokenizer, token) for token, _ in entries]
    offensive = are_offensive(texts)
    return tuple(
        Token(text, value, flag)
        for text, (_, value), flag in zip(texts, entries, offensive, strict=True)
    )


def readable(tokenizer: Any, token: int) -> str:
    """A token as text: `·cat`; what is no text by itself, as part of a character, by its name."""
    name = str(tokenizer.convert_ids_to_tokens(token))
    text = tokenizer.decode([token])
    if not text or UNREADABLE in text:
        text = name
    elif name.startswith("▁") and not text.startswith(" "):
        text = f" {text}"  # decoders take the space before a first word away
    shown = text[:MOST_LETTERS] + ("…" if len(text) > MOST_LETTERS else "")
    return "".join(_escaped(letter) for letter in shown.replace(" ", SPACE))


def are_offensive(texts: Sequence[str]) -> list[bool]:
    """Whether each token may offend, by itself; one without a letter does not."""
    plain = [text.replace(SPACE, " ").strip() for text in texts]
    probabilities = load_classifier("toxicity").probabilities(plain)
    rude = _demo_words()
    return [
        any(map(str.isalpha, text))
        and (bool(probability >= OFFENSIVE) or not rude.isdisjoint(words_of(text)))
        for text, probability in zip(plain, probabilities, strict=True)
    ]


@cache
def _demo_words() -> frozenset[str]:
    return markers("people", "rude").words


def _escaped(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
