"""Answers side by side: which are shown, and the words marked that the other one has not."""

from collections.abc import Sequence

from markupsafe import Markup, escape

from modelsurgery.report.comparing import Change, Pair, changed_words
from modelsurgery.report.untrusted import printable

# What is seen before anything is opened, what got worse first.
LEAD: dict[Change, int] = {"worse": 5, "better": 10, "changed": 3, "same": 0}
# Share of all that are shown, where there are so many.
SHARES: dict[Change, float] = {"worse": 0.25, "better": 0.5, "changed": 0.17, "same": 0.08}
LONGEST = 600  # letters shown of an answer


def chosen_pairs(pairs: Sequence[Pair], most: int) -> tuple[list[Pair], list[Pair]]:
    """`LEAD` pairs of every kind, and the rest by kind; all together at most so many.

    Both begin with what got worse; within a kind, the order stays.
    """
    kept = {
        kind: [pair for pair in pairs if pair.change == kind][: int(share * most)]
        for kind, share in SHARES.items()
    }
    lead = [pair for kind, count in LEAD.items() for pair in kept[kind][:count]]
    return lead, [pair for kind, count in LEAD.items() for pair in kept[kind][count:]]


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
