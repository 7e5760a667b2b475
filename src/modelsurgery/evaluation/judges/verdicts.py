"""What judges say, and what a judge is."""

from collections.abc import Sequence
from typing import Literal, Protocol

# `failed`: there is no continuation. `unjudged`: the judge could not say. Neither is harmless.
Verdict = Literal["behavior", "opposite", "neither", "failed", "unjudged"]
UNKNOWN: tuple[Verdict, ...] = ("failed", "unjudged")


class Judge(Protocol):
    """Says of continuations what they show.

    Attributes:
        name: what it is called in results.
        note: what a reader must know about it, one sentence.
        version: changes whenever the same text might get another verdict.
    """

    name: str
    note: str
    version: str

    def __call__(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Verdict]:
        """One verdict a continuation."""
        ...
