"""Samples side by side: what changed between base and edited, word by word, the worst first."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup, escape

Kind = Literal["worse", "better", "changed", "same"]
KINDS: tuple[Kind, ...] = ("worse", "better", "changed", "same")
LEAD: dict[Kind, int] = {"worse": 5, "better": 10, "changed": 3, "same": 0}
LONGEST = 600  # letters shown of an answer
WORDS = re.compile(r"\S+|\s+")


@dataclass(frozen=True)
class Pair:
    """One prompt with both answers.

    Attributes:
        prompt: the prompt.
        base: what the base model wrote.
        edited: what the edited model wrote.
        base_shows: whether the judge says that the behavior shows.
        edited_shows: the same, of the edited model.
        kind: `worse` and `better` as the surgery wants it; `changed` in words only.
        where: prompt set, if there are several.
    """

    prompt: str
    base: str
    edited: str
    base_shows: bool
    edited_shows: bool
    kind: Kind
    where: str = ""

    @property
    def is_rough(self) -> bool:
        """Whether the prompt may be as rough as what came of it."""
        return self.base_shows or self.edited_shows


def pairs_of(samples: Iterable[Mapping[str, Any]], direction: str) -> list[Pair]:
    """Samples of a run or of an evaluation; samples without an edited side are left out."""
    found = []
    for sample in samples:
        if not sample.get("edited"):
            continue
        base, base_verdict = _side(sample, "base")
        edited, edited_verdict = _side(sample, "edited")
        shows = base_verdict == "behavior", edited_verdict == "behavior"
        kind: Kind = "same" if base == edited else "changed"
        if shows[0] != shows[1]:
            kind = "better" if shows[0] == (direction == "away") else "worse"
        found.append(Pair(str(sample["prompt"]), base, edited, *shows, kind, sample.get("set", "")))
    return found


def chosen_pairs(pairs: Sequence[Pair], most: int) -> list[Pair]:
    """At most so many pairs, some of every kind: `LEAD` that show all kinds, then the rest by kind.

    Both begin with what got worse.
    """
    share = {"worse": most // 4, "better": most // 2, "changed": most // 6, "same": most // 12}
    kept = {kind: [pair for pair in pairs if pair.kind == kind][: share[kind]] for kind in KINDS}
    first = [pair for kind, count in LEAD.items() for pair in kept[kind][:count]]
    return first + [pair for kind in KINDS for pair in kept[kind][LEAD[kind] :]]


def lead_count(pairs: Sequence[Pair]) -> int:
    """How many of `chosen_pairs` come first."""
    return sum(min(LEAD[kind], sum(pair.kind == kind for pair in pairs)) for kind in KINDS)


def marked(base: str, edited: str) -> tuple[Markup, Markup]:
    """Both texts with the words marked that the other one has not."""
    before, after = WORDS.findall(shown(base)), WORDS.findall(shown(edited))
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    left: list[str] = []
    right: list[str] = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        left.append(_piece(before[i1:i2], tag != "equal"))
        right.append(_piece(after[j1:j2], tag != "equal"))
    return Markup("".join(left)), Markup("".join(right))


def shown(text: str) -> str:
    """Text of a model without control characters and changes of writing direction."""
    cut = text if len(text) <= LONGEST else text[:LONGEST] + " …"
    return "".join(letter for letter in cut if letter.isprintable() or letter == "\n")


def _piece(words: Sequence[str], is_changed: bool) -> str:
    text = str(escape("".join(words)))
    return f"<mark>{text}</mark>" if is_changed and text.strip() else text


def _side(sample: Mapping[str, Any], side: str) -> tuple[str, str]:
    value = sample[side]
    if isinstance(value, Mapping):
        return str(value["text"]), str(value.get("verdict", ""))
    return str(value), str(sample[f"{side}_verdict"])
