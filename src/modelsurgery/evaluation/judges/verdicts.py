"""What judges say, and what a judge is."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from modelsurgery.data.texts import LabeledText
from modelsurgery.results.parts import Verdict as Verdict

UNKNOWN: tuple[Verdict, ...] = ("failed", "unjudged")


class Judge(Protocol):
    """Says of continuations what they show."""

    name: str  # what it is called in results
    note: str  # what a reader must know about it, one sentence
    version: str  # changes whenever the same text might get another verdict

    def __call__(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Verdict]:
        """One verdict a continuation."""
        ...


def judged_where_spoken(
    judge: Callable[[list[str]], Iterable[Verdict]], continuations: Sequence[str]
) -> list[Verdict]:
    """A verdict a continuation from what judges texts; empty ones have failed, and are not seen."""
    verdicts: list[Verdict] = ["failed"] * len(continuations)
    spoken = [row for row, text in enumerate(continuations) if text.strip()]
    if spoken:
        found = judge([continuations[row] for row in spoken])
        for row, verdict in zip(spoken, found, strict=True):
            verdicts[row] = verdict
    return verdicts


def said_in(text: LabeledText) -> str:
    """What a judge of continuations would see: the answer, where the text is an exchange."""
    return text.text if text.reply is None else text.reply
