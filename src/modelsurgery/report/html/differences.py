"""Answers side by side: which are shown, and the words marked that the other one has not."""

from collections.abc import Sequence

from markupsafe import Markup, escape

from modelsurgery.report.comparing import CHANGES, Change, Pair, changed_words
from modelsurgery.report.untrusted import printable

# What is seen before anything is opened, what got worse first.
LEAD: dict[Change, int] = {"worse": 5, "better": 10, "changed": 3, "same": 0}
# Share of all that are shown, where there are so many.
SHARES: dict[Change, float] = {"worse": 0.25, "better": 0.5, "changed": 0.17, "same": 0.08}
LONGEST = 600  # letters shown of an answer


def chosen_pairs(pairs: Sequence[Pair], most: int) -> list[Pair]:
    """At most so many pairs, some of every kind: `LEAD` that show all kinds, then the rest by kind.

    Both begin with what got worse; within a kind, the order stays.
    """
    kept = {
        kind: [pair for pair in pairs if pair.change == kind][: int(share * most)]
        for kind, share in SHARES.items()
    }
    first = [pair for kind, count in LEAD.items() for pair in kept[kind][:count]]
    return first + [pair for kind in LEAD for pair in kept[kind][LEAD[kind] :]]


def lead_count(pairs: Sequence[Pair]) -> int:
    """How many of `chosen_pairs` come first."""
    return sum(min(LEAD[kind], sum(pair.change == kind for pair in pairs)) for kind in CHANGES)


def marked(base: str, edited: str) -> tuple[Markup, Markup]:
    """Both texts with the words marked that the other one has not."""
    left, right = (
        Markup("").join(
            Markup("<mark>{}</mark>").format(text) if is_new and text.strip() else escape(text)
            for text, is_new in pieces
        )
        for pieces in changed_words(printable(base), printable(edited))
    )
    return left, right


def shown(text: str) -> str:
    """The beginning of a text, without control characters and changes of writing direction."""
    return printable(text if len(text) <= LONGEST else text[:LONGEST] + " …")
