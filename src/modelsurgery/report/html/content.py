"""What a report shows, as plain values that a template can print."""

from collections.abc import Mapping
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
    """One of the large numbers on top.

    Attributes:
        name: what it is.
        shown: the number, or base and edited one.
        note: what else to know of it.
        tone: whether it is what was wished for.
    """

    name: str
    shown: str
    note: str
    tone: Tone = "unclear"


@dataclass(frozen=True)
class Answers:
    """Prompts with the answers of both models.

    Attributes:
        pairs: those that are shown; the first `lead` of them are seen at once.
        counts: how many of all answers changed in which way.
    """

    pairs: tuple[Pair, ...] = ()
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
    """What a run directory says of how it was made.

    Attributes:
        recipe: as YAML.
        model: that it was made with, as the recipe spells it.
        versions: of the programs, by name.
        hashes: SHA-256 by file.
    """

    recipe: str
    model: str
    versions: Mapping[str, str]
    hashes: Mapping[str, str]


@dataclass(frozen=True)
class Grid:
    """A table of text.

    Attributes:
        caption: what it shows.
        heads: of the columns.
        lines: cells; the first of a line names it.
    """

    caption: str
    heads: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Page:
    """All that the template shows.

    Attributes:
        title: of the page.
        subject: one line: behavior, direction, model.
        verdict: the result in one sentence.
        tone: whether it is what was wished for, at a price that was allowed.
        told: what there is to say beside the verdict.
        numbers: the gain, the price.
        tables: everything measured.
        notes: how it was measured.
        figures: what changed and what it cost.
        answers: examples.
        method: how it was done, in plain words.
        facts: name and value of what was done, with what.
        commands: what for, and the command.
        record: recipe, versions and hashes.
        inside: figures on rows, neurons and probe.
        neurons: `inside` of the results, for its tables of tokens.
        explained: columns, and lines of the rows that the rule expected most of.
        grids: tables of text, after the others.
    """

    title: str
    subject: str
    verdict: str
    tone: Tone
    told: tuple[str, ...]
    numbers: tuple[Number, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    figures: tuple[Figure, ...]
    answers: Answers
    method: str
    facts: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, str], ...]
    record: Record
    inside: tuple[Figure, ...] = ()
    neurons: Mapping[str, Any] = field(default_factory=dict)
    explained: tuple[tuple[str, ...], ...] = ()
    grids: tuple[Grid, ...] = ()
