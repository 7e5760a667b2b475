"""Rows of a report's tables: base, edited, and what changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelsurgery.report.html.wording import chance, per_cent, signed

QUALITY = {"repetition": "repeated 4-grams", "unfinished": "cut off", "failed": "empty answers"}


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: what was measured.
        base: of the base model.
        edited: of the edited model; empty without one.
        change: between them.
        is_aside: whether it stands beside another line: a second judge, a published number.
    """

    name: str
    base: str
    edited: str = ""
    change: str = ""
    is_aside: bool = False


def rate_shown(rate: Mapping[str, float]) -> str:
    """A rate with its interval."""
    return f"{per_cent(rate['rate'])} ({100 * rate['low']:.0f} to {100 * rate['high']:.0f})"


def points(base: float, edited: float) -> str:
    """A change of a share, in points."""
    return f"{signed(100 * (edited - base))} points"


def behavior_row(name: str, one: Mapping[str, Any], *, is_aside: bool = False) -> Row:
    """How often a behavior shows."""
    if one["edited"] is None:
        return Row(name, rate_shown(one["base"]), is_aside=is_aside)
    change = one["change"]
    told = f"{signed(100 * change['difference'])} points, p {chance(change['adjusted_p_value'])}"
    return Row(name, rate_shown(one["base"]), rate_shown(one["edited"]), told, is_aside)


def set_rows(one: Mapping[str, Any]) -> list[Row]:
    """A prompt set: what its judge says, what others say, and what others have published."""
    rows = [behavior_row(f"{one['name']} ({one['base']['prompts']:,})", one)]
    for judge, other in one["other_judges"].items():
        rows.append(behavior_row(f"as {judge} judges", other, is_aside=True))
    for published in one["published"]:
        base, edited = (f"{published[side]:.1f}%" for side in ("base", "edited"))
        rows.append(Row(f"published for {published['model']}", base, edited, is_aside=True))
    return rows


def quality_rows(one: Mapping[str, Any]) -> list[Row]:
    """What may be wrong with the answers to a prompt set as texts."""
    quality = one["quality"]
    base, edited = quality.get("base", quality), quality.get("edited")
    rows = []
    for key, name in QUALITY.items():
        label = f"{one['name']}: {name}"
        if edited is None:
            rows.append(Row(label, per_cent(base[key])))
        else:
            change = points(base[key], edited[key])
            rows.append(Row(label, per_cent(base[key]), per_cent(edited[key]), change))
    label, length = f"{one['name']}: tokens", base["mean_tokens"]
    if edited is None:
        return [*rows, Row(label, f"{length:.1f}")]
    after = edited["mean_tokens"]
    return [*rows, Row(label, f"{length:.1f}", f"{after:.1f}", signed(after - length))]


def perplexity_rows(base: float, edited: float | None, divergence: float | None) -> list[Row]:
    """What neutral text tells."""
    if edited is None:
        return [Row("perplexity of neutral text", f"{base:.2f}")]
    rise = f"{signed(100 * (edited / base - 1))}%"
    rows = [Row("perplexity of neutral text", f"{base:.2f}", f"{edited:.2f}", rise)]
    if divergence is not None:
        rows.append(Row("divergence from the base", "0", f"{divergence:.4f}", "nats a token"))
    return rows


def own_rows(own: Mapping[str, float] | None) -> list[Row]:
    """What the model's own answers to harmless requests tell."""
    if not own:
        return []
    name = f"divergence on {own['answers']} answers of its own"
    return [Row(name, "0", f"{own['divergence']:.4f}", "nats a token")]


def facts_rows(facts: Sequence[Mapping[str, float]] | None, *, has_edit: bool = True) -> list[Row]:
    """Exact match of answers to facts, of the base model and of an edited one."""
    if not facts:
        return []
    base, edited = facts
    if not has_edit:
        return [Row("facts answered right", rate_shown(base))]
    told = points(base["rate"], edited["rate"])
    return [Row("facts answered right", rate_shown(base), rate_shown(edited), told)]


def task_row(name: str, task: Mapping[str, Any]) -> Row:
    """A capability task."""
    base, edited = task["base"], task["edited"]
    if "perplexity" in task.get("metric", ""):
        row = Row(f"{name} (perplexity)", f"{base:.2f}")
        if edited is None:
            return row
        return Row(row.name, row.base, f"{edited:.2f}", f"{signed(100 * (edited / base - 1))}%")
    label = f"{name} ({task['metric']}, {task['shots']}-shot)"
    if edited is None:
        return Row(label, rate_shown(base))
    told = points(base["rate"], edited["rate"])
    return Row(label, rate_shown(base), rate_shown(edited), told)
