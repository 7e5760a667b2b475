"""What a report shows, as plain values that a template can print."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelsurgery.report.comparing import Change, Pair, Pairs
from modelsurgery.report.html.differences import chosen_pairs
from modelsurgery.report.html.figures import Figure
from modelsurgery.report.html.wording import Tone, per_cent, signed, tone
from modelsurgery.results import Compared, Limit, Rate
from modelsurgery.results.tables import PAGE, Points, Table, shown

MOST_PAIRS = 240  # shown of all answers, so that the page stays small


@dataclass(frozen=True)
class Number:
    """One of the large numbers on top."""

    name: str
    shown: str  # the number, or base and edited one
    note: str  # what else to know of it
    tone: Tone = "unclear"  # whether it is what was wished for


def change_number(name: str, one: Compared, direction: str) -> Number:
    """A rate before and after, where both were measured."""
    assert one.edited is not None
    assert one.change is not None
    return Number(
        name,
        f"{per_cent(one.base.rate)} → {per_cent(one.edited.rate)}",
        f"{shown(Points(one.change.difference), PAGE)} of {one.base.prompts:,} prompts",
        tone(one.change.verdict, direction),
    )


def price_numbers(
    rise: float | None, facts: tuple[Rate, Rate] | None, limits: Mapping[str, Limit]
) -> list[Number]:
    """The rise of the perplexity and the change of facts, with what was allowed of them."""
    found = []
    if rise is not None:
        note, kept = _allowed(limits.get("perplexity"), lambda most: f"{signed(100 * most)}%")
        number = f"{signed(100 * rise)}%"
        found.append(Number("perplexity", number, f"ordinary text{note}", kept))
    if facts is not None:
        base, edited = (one.rate for one in facts)
        note, kept = _allowed(limits.get("capability"), lambda most: signed(-most))
        lost = f"{shown(Points(edited - base), PAGE)}{note}"
        found.append(Number("facts right", f"{per_cent(base)} → {per_cent(edited)}", lost, kept))
    return found


def _allowed(limit: Limit | None, said: Callable[[float], str]) -> tuple[str, Tone]:
    """What was allowed, and whether it was kept."""
    if limit is None or limit.limit is None:
        return "", "unclear"
    return f"; at most {said(limit.limit)} was allowed", "good" if limit.is_inside else "bad"


@dataclass(frozen=True)
class Answers:
    """Prompts with the answers of both models, some of every kind."""

    lead: Sequence[Pair]  # seen at once
    rest: Sequence[Pair]
    counts: Mapping[Change, int]  # of all answers


def answers_of(pairs: Pairs) -> Answers:
    """Some of all pairs of a run."""
    return Answers(*chosen_pairs(pairs.pairs, MOST_PAIRS), pairs.counts)


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


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that the template shows."""

    title: str
    subject: str  # one line: behavior, direction, model
    verdict: str  # the result in one sentence
    tone: Tone = "unclear"  # whether it is what was wished for, at a price that was allowed
    told: tuple[str, ...] = ()  # what there is to say beside the verdict
    numbers: tuple[Number, ...]  # the gain, the price
    tables: tuple[Table, ...] = ()  # everything measured
    notes: tuple[str, ...]  # how it was measured
    figures: tuple[Figure, ...]  # what changed and what it cost
    answers: Answers | None = None
    method: str  # how it was done, in plain words
    facts: tuple[tuple[str, str], ...]  # name and value of what was done, with what
    commands: tuple[tuple[str, str], ...] = ()  # what for, and the command
    record: Record  # recipe, versions and hashes
    inside: tuple[Figure, ...] = ()  # figures on rows, neurons and probe
    # `inside` of the results, for its tables of tokens
    neurons: Mapping[str, Any] = field(default_factory=dict)
    # columns, and lines of the rows that the rule expected most of
    explained: tuple[tuple[str, ...], ...] = ()
    grids: tuple[Grid, ...] = ()  # tables of text, after the others
