"""What a report shows, as plain values that a template can print."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from modelsurgery.report.comparing import CHANGES, Change, Pair, Pairs
from modelsurgery.report.html.differences import chosen_pairs, lead_count
from modelsurgery.report.html.figures import Figure
from modelsurgery.results.tables import Table

MOST_PAIRS = 240  # shown of all answers, so that the page stays small
Tone = Literal["good", "bad", "unclear"]


@dataclass(frozen=True)
class Number:
    """One of the large numbers on top."""

    name: str
    shown: str  # the number, or base and edited one
    note: str  # what else to know of it
    tone: Tone = "unclear"  # whether it is what was wished for


@dataclass(frozen=True)
class Answers:
    """Prompts with the answers of both models."""

    pairs: tuple[Pair, ...] = ()  # those that are shown; the first `lead` of them are seen at once
    # how many of all answers changed in which way
    counts: Mapping[Change, int] = field(default_factory=lambda: dict.fromkeys(CHANGES, 0))

    @property
    def lead(self) -> int:
        """Pairs that are seen at once."""
        return lead_count(self.pairs)


def answers_of(pairs: Pairs) -> Answers:
    """Some of all pairs of a run."""
    return Answers(tuple(chosen_pairs(pairs.pairs, MOST_PAIRS)), pairs.counts)


@dataclass(frozen=True)
class Record:
    """What a run directory says of how it was made."""

    recipe: str  # as YAML
    model: str  # that it was made with, as the recipe spells it
    versions: Mapping[str, str]  # of the programs, by name
    hashes: Mapping[str, str]  # SHA-256 by file


@dataclass(frozen=True)
class Grid:
    """A table of text."""

    caption: str
    heads: Sequence[str]
    lines: Sequence[Sequence[str]]  # cells; the first of a line names it


@dataclass(frozen=True)
class Page:
    """All that the template shows."""

    title: str
    subject: str  # one line: behavior, direction, model
    verdict: str  # the result in one sentence
    tone: Tone  # whether it is what was wished for, at a price that was allowed
    told: tuple[str, ...]  # what there is to say beside the verdict
    numbers: tuple[Number, ...]  # the gain, the price
    tables: tuple[Table, ...]  # everything measured
    notes: tuple[str, ...]  # how it was measured
    figures: tuple[Figure, ...]  # what changed and what it cost
    answers: Answers  # examples
    method: str  # how it was done, in plain words
    facts: tuple[tuple[str, str], ...]  # name and value of what was done, with what
    commands: tuple[tuple[str, str], ...]  # what for, and the command
    record: Record  # recipe, versions and hashes
    inside: tuple[Figure, ...] = ()  # figures on rows, neurons and probe
    # `inside` of the results, for its tables of tokens
    neurons: Mapping[str, Any] = field(default_factory=dict)
    # columns, and lines of the rows that the rule expected most of
    explained: tuple[tuple[str, ...], ...] = ()
    grids: tuple[Grid, ...] = ()  # tables of text, after the others
