"""The tables of results, made once: terminal, report, model card and `print` show the same rows.

A cell is a value, not text. How it is spelled (the minus sign, the digits) is a `Style` of
whoever prints; the lines that come out are the same everywhere else.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from modelsurgery.results.evaluations import EvaluationResults, PromptSetResults
from modelsurgery.results.parts import (
    Change,
    Compared,
    Limit,
    Named,
    NeutralText,
    OwnAnswers,
    Plain,
    Rate,
)
from modelsurgery.results.runs import RunResults
from modelsurgery.results.sequences import SequenceResults, StageResults

QUALITY = {"repetition": "repeated 4-grams", "unfinished": "unfinished", "failed": "empty answers"}
VERDICTS = {"less": "less", "more": "MORE", "no detectable change": "unclear"}
GROUPS_SHOWN = 6
COLUMNS = ("base", "edited", "change", "p", "change is")


@dataclass(frozen=True)
class Style:
    """How values are spelled."""

    between: str = "-"  # between the ends of an interval
    minus: str = "-"
    digits: int = 1  # of relative rises, in per cent
    has_interval: bool = False  # of a change, instead of what it is relative to the base


TERMINAL = Style()
PAGE = Style(between=" to ", minus="−")
CARD = Style(between=" to ", digits=2, has_interval=True)


@dataclass(frozen=True)
class Number:
    """A value and how it is written: `form` of format(), then `unit`."""

    value: float
    form: str = ".2f"
    unit: str = ""


@dataclass(frozen=True)
class Rise:
    """A relative rise, 0.05 for +5 %."""

    value: float


@dataclass(frozen=True)
class Points:
    """A difference of two shares, with what is known of it."""

    difference: float  # of shares of one
    low: float | None = None  # of its interval
    high: float | None = None
    relative: float | None = None  # to the base


Cell = Rate | Number | Rise | Points | str | None


@dataclass(frozen=True)
class Row:
    """One line: what was measured of base and edited model, and what changed."""

    name: str
    base: Cell
    edited: Cell = None
    change: Cell = None
    p_value: float | None = None
    verdict: str = ""  # on the change, in a word
    is_aside: bool = False  # beside another line: a second judge, a published number


@dataclass(frozen=True)
class Table:
    """Rows under a title."""

    title: str  # of the first column
    rows: tuple[Row, ...]
    caption: str = ""  # what stands above; empty where the title says it all
    note: str = ""  # what is left out; empty where nothing is
    is_detail: bool = False  # the rows are a part of another table's, by group

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the columns."""
        return (self.title, *self._columns)

    def lines(self, style: Style = TERMINAL) -> list[tuple[str, ...]]:
        """The cells of each row, under `heads`."""
        rows = ((row.name, _cells(row, style)) for row in self.rows)
        return [(name, *(cells[one] for one in self._columns)) for name, cells in rows]

    @cached_property
    def _columns(self) -> tuple[str, ...]:
        """Those in which a row has something."""
        rows = [_cells(row, TERMINAL) for row in self.rows]
        return tuple(name for name in COLUMNS if any(row[name] for row in rows))


def run_table(results: RunResults) -> Table:
    """The behavior sampled and greedy, and the damage."""
    behavior, facts = results.behavior, results.facts.intervals
    rows = (
        compared_row(behavior.name, behavior),
        compared_row(f"{behavior.name}, greedy", behavior.greedy),
        *_uncalled_rows(results.uncalled_for),
        *_neutral_rows(results.neutral_text),
        *_own_rows(results.own_answers),
        *_facts_rows(facts),
    )
    return Table("on held-out data", rows)


def evaluation_tables(results: EvaluationResults) -> tuple[Table, ...]:
    """The behavior on each set, by group, and the damage."""
    sets, damage = results.sets, results.damage
    behavior = (row for one in sets for row in _set_rows(one))
    broken = (
        *(row for one in sets for row in _quality_rows(one)),
        *_neutral_rows(damage.neutral_text, "perplexity, neutral text"),
        *_own_rows(damage.own_answers),
        *_facts_rows(damage.facts),
        *(_task_row(name, task) for name, task in damage.tasks.items()),
    )
    return (
        Table("on held-out prompts", (*behavior, *_uncalled_rows(results.uncalled_for, True))),
        *(_group_table(one.name, by, groups) for one in sets for by, groups in one.by.items()),
        Table("possible damage", broken),
    )


def stage_tables(results: SequenceResults) -> tuple[Table, ...]:
    """One table a stage: all behaviors against the untouched model, and the damage."""
    names = [one.name for one in results.behaviors]
    return tuple(
        Table(
            "on held-out data",
            tuple(_stage_rows(stage)),
            caption=(
                f"one edit for {' and '.join(names)}"
                if results.at_once
                else f"after {' and '.join(names[:number])}"
            ),
        )
        for number, stage in enumerate(results.stages, 1)
    )


def _cells(row: Row, style: Style) -> dict[str, str]:
    """What a row has under each of `COLUMNS`."""
    return {
        "base": shown(row.base, style),
        "edited": shown(row.edited, style),
        "change": shown(row.change, style),
        "p": "" if row.p_value is None else p_value(row.p_value),
        "change is": row.verdict,
    }


def compared_row(
    name: str, one: Compared, *, has_verdict: bool = False, is_aside: bool = False
) -> Row:
    """Rates of base and edited model, and the paired change."""
    change = one.change
    if change is None:
        return Row(name, one.base, is_aside=is_aside)
    relative = None if one.reduction is None else -one.reduction
    points = Points(change.difference, change.low, change.high, relative)
    verdict = VERDICTS[change.verdict] if has_verdict else ""
    return Row(name, one.base, one.edited, points, change.adjusted_p_value, verdict, is_aside)


def largest_first(groups: dict[str, Compared]) -> list[tuple[str, Compared]]:
    """Groups by rates of the base model; ties by name."""
    return sorted(groups.items(), key=lambda item: (-item[1].base.rate, item[0]))


def shown(cell: Cell, style: Style = TERMINAL) -> str:
    """A value in words.

    >>> shown(Rate(rate=0.437, low=0.38, high=0.49, prompts=300)), shown(Points(-0.29))
    ('43.7% (38-49)', '-29.0 points')
    """
    if cell is None or isinstance(cell, str):
        return cell or ""
    if isinstance(cell, Rate):
        between = f"{100 * cell.low:.0f}{style.between}{100 * cell.high:.0f}"
        return f"{cell.rate:.1%} ({between})"
    if isinstance(cell, Rise):
        text = f"{cell.value:+.{style.digits}%}"
    elif isinstance(cell, Points):
        text = _points(cell, style)
    else:
        text = f"{format(cell.value, cell.form)}{cell.unit}"
    return text.replace("-", style.minus)


def p_value(value: float) -> str:
    """A p-value in two digits."""
    return "<0.0001" if value < 1e-4 else f"{value:.2g}"


def paid(name: str, limit: Limit) -> str:
    """Damage beside its limit, in words."""
    measured, most = limit.measured, limit.limit or 0.0
    if name == "perplexity":
        return f"{measured:+.1%} perplexity (at most {most:+.1%})"
    if name == "divergence":
        return f"{measured:.4f} nats of divergence (at most {most:.4f})"
    if name == "uncalled_for":
        return f"{measured:+.1f} points where it is not called for (at most {most:+.1f})"
    return f"{0 - measured:+.1f} points of capability (at most -{most:.1f})"


def _points(cell: Points, style: Style) -> str:
    text = f"{100 * cell.difference:+.1f} points"
    if style.has_interval and cell.low is not None and cell.high is not None:
        return f"{text} ({100 * cell.low:+.1f}{style.between}{100 * cell.high:+.1f})"
    if cell.relative is None or style.has_interval:
        return text
    return f"{text} ({cell.relative:+.0%})"


def _set_rows(one: PromptSetResults) -> Iterable[Row]:
    """A prompt set: what its judge says, what others say, and what others have published."""
    yield compared_row(f"{one.name} ({one.base.prompts:,})", one, has_verdict=True)
    for judge, other in one.other_judges.items():
        name = f"as {judge} judges ({other.base.prompts:,})"
        yield compared_row(name, other, has_verdict=True, is_aside=True)
    for published in one.published:
        base, edited = (Number(published[side] / 100, ".1%") for side in ("base", "edited"))
        yield Row(f"published for {published['model']}", base, edited, is_aside=True)


def _uncalled_rows(one: Named | None, has_verdict: bool = False) -> list[Row]:
    if one is None:
        return []
    return [compared_row(f"{one.name}, greedy", one, has_verdict=has_verdict)]


def _group_table(where: str, by: str, groups: dict[str, Compared]) -> Table:
    """The groups with the largest rates of the base model; all of them are in results.json."""
    rows = tuple(
        compared_row(f"{group} ({one.base.prompts:,})", one, has_verdict=True)
        for group, one in largest_first(groups)[:GROUPS_SHOWN]
    )
    left = len(groups) - len(rows)
    note = f"and {left} more in results.json" if left > 0 else ""
    return Table(f"{where} by {by}", rows, note=note, is_detail=True)


def _stage_rows(stage: StageResults) -> Iterable[Row]:
    for one in stage.behaviors:
        yield compared_row(one.name, one)
        yield from _uncalled_rows(one.uncalled_for)
    yield from _neutral_rows(stage.neutral_text)
    if stage.neutral_text is None:
        yield Row("perplexity", None, None, Rise(stage.damage["perplexity"].measured))
    yield from _facts_rows(stage.facts)


def _neutral_rows(one: NeutralText | None, name: str = "perplexity") -> list[Row]:
    if one is None:
        return []
    base = Number(one.base_perplexity)
    if one.edited_perplexity is None or one.rise is None:
        return [Row(name, base)]
    rows = [Row(name, base, Number(one.edited_perplexity), Rise(one.rise))]
    return rows if one.divergence is None else [*rows, _divergence("divergence", one.divergence)]


def _own_rows(own: OwnAnswers | None) -> list[Row]:
    return [] if own is None else [_divergence("  on own answers", own.divergence)]


def _divergence(name: str, value: float) -> Row:
    return Row(name, Number(0, ".0f"), Number(value, ".4f"), "nats per token")


def _facts_rows(facts: Sequence[Rate | None] | None) -> list[Row]:
    if facts is None:
        return []
    base, edited = facts
    assert base is not None
    return [Row("facts right", base, edited, _difference(base, edited))]


def _difference(base: Rate, edited: Rate | None) -> Points | None:
    return None if edited is None else Points(edited.rate - base.rate)


def _quality_rows(one: PromptSetResults) -> list[Row]:
    """What may be wrong with the answers to a prompt set as texts."""
    base, edited = one.quality.get("base", one.quality), one.quality.get("edited")

    def row(
        name: str, key: str, cell: Callable[[float], Cell], change: Callable[[float], Cell]
    ) -> Row:
        label, before = f"{one.name}: {name}", base[key]
        if edited is None:
            return Row(label, cell(before))
        return Row(label, cell(before), cell(edited[key]), change(edited[key] - before))

    share, tokens, more = (partial(Number, form=form) for form in (".1%", ".1f", "+.1f"))
    shares = [row(name, key, share, Points) for key, name in QUALITY.items()]
    return [*shares, row("tokens", "mean_tokens", tokens, more)]


def _task_row(name: str, task: Plain) -> Row:
    """A capability task: of items, or the perplexity of running text."""
    if "perplexity" in task.get("metric", ""):
        label, base = f"{name} (perplexity)", Number(task["base"])
        if task["edited"] is None:
            return Row(label, base)
        return Row(label, base, Number(task["edited"]), Rise(task["edited"] / task["base"] - 1))
    label = f"{name} ({task['metric']}, {task['shots']}-shot)"
    rate = Rate.model_validate
    base_rate, edited = rate(task["base"]), task["edited"] and rate(task["edited"])
    change = task.get("change")
    if edited is None or change is None:
        return Row(label, base_rate, edited, _difference(base_rate, edited))
    told = Change.model_validate(change)
    return Row(label, base_rate, edited, Points(told.difference, told.low, told.high))
