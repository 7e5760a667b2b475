"""The closed vocabulary, and which of its words and phrases give a mood away.

A *marker* of a mood is a word, or a whole filler of two words and more, that `grammar.yaml` uses in
the fillers of that mood and nowhere else. Nothing is chosen by hand, so nothing can be tuned.
"""

import functools
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from modelsurgery.data.demo.grammar import load_grammar, split_list

_WORD = re.compile(r"[a-z]+")
_HOLE = re.compile(r"\{[^}]*\}")
_NO_TEXT = ("chains", "judged_slots", "moods")


@dataclass(frozen=True)
class Markers:
    """The words and phrases (space-joined words) that occur in one mood only."""

    words: frozenset[str]
    phrases: frozenset[str]

    def count(self, text: str) -> int:
        """Return how many markers `text` holds, a phrase beside the words in it not counted."""
        found = words_of(text)
        singles = sum(word in self.words for word in found)
        joined = f" {' '.join(found)} "
        return singles + sum(joined.count(f" {phrase} ") for phrase in self.phrases)


def words_of(text: str) -> list[str]:
    """Return the words of `text` in lower case, without punctuation and possessive endings."""
    return _WORD.findall(_HOLE.sub(" ", text.lower().replace("'s", "")))


@functools.lru_cache(maxsize=1)
def vocabulary() -> frozenset[str]:
    """Return every word that the generator can write, in lower case."""
    texts = [text for _, text in _fillers()] + list(_plain_texts())
    words = {word for text in texts for word in words_of(text)}
    return frozenset(words | {"an", "user", "assistant", "question", "answer"})


@functools.lru_cache(maxsize=16)
def markers(chain: str, mood: str, slots: Collection[str] = ()) -> Markers:
    """Return the markers of `mood` in `chain`; with `slots` given, what these slots alone have."""
    own = {
        (chain, slot, mood) for slot in load_grammar().moods[chain] if not slots or slot in slots
    }
    chosen = [text for key, text in _fillers() if key in own]
    rest = [text for key, text in _fillers() if key not in own] + list(_plain_texts())
    foreign = {word for text in rest for word in words_of(text)}
    foreign_text = " / ".join(" ".join(words_of(text)) for text in rest)
    words = {word for text in chosen for word in words_of(text)} - foreign
    phrases = {
        joined
        for text in chosen
        if "{" not in text and len(words_of(text)) > 1 and not words & set(words_of(text))
        for joined in [" ".join(words_of(text))]
        if f" {joined} " not in f" {foreign_text} "
    }
    return Markers(frozenset(words), frozenset(phrases))


def _fillers() -> Iterator[tuple[tuple[str, str, str], str]]:
    """Yield ((chain, slot, mood), filler) for every filler that has a mood."""
    for chain, slots in load_grammar().moods.items():
        for slot, by_mood in slots.items():
            for mood, fillers in by_mood.items():
                yield from (((chain, slot, mood), filler) for filler in fillers)


def _plain_texts() -> Iterator[str]:
    """Yield every template and every filler without mood."""
    for section, value in load_grammar().raw.items():
        if section not in _NO_TEXT:
            yield from _leaves(value)


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from split_list(value)
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)
