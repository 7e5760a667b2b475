"""The page of `surgery run` and `surgery tune`: one edit, its measurement, and its inside."""

import shlex
from pathlib import Path

from modelsurgery.report.comparing import read_pairs
from modelsurgery.report.edits import METHODS, edit_source
from modelsurgery.report.explained import COLUMNS, row_lines
from modelsurgery.report.html import wording
from modelsurgery.report.html.commands import adapter_command, compare_command, delivery_commands
from modelsurgery.report.html.content import (
    Number,
    Page,
    Record,
    answers_of,
    change_number,
    price_numbers,
)
from modelsurgery.report.html.figures import (
    Figure,
    curve_figure,
    explained_figures,
    inside_figures,
    rates_figure,
)
from modelsurgery.report.html.wording import per_cent
from modelsurgery.report.scheduling import duration
from modelsurgery.results import Compared, RunResults
from modelsurgery.results.notes import run_notes, sentences
from modelsurgery.results.parts import NO_CHANGE
from modelsurgery.results.runs import RunBehavior
from modelsurgery.results.tables import run_table

NOT_CHOSEN_ON = "none of the data measured here was used to choose the edit"


def page_of_run(directory: Path, results: RunResults, record: Record) -> Page:
    """The page of a run's results."""
    behavior, direction = results.behavior, results.behavior.direction
    assert behavior.change is not None
    fit = None if results.fit is None else results.fit.model_dump()
    name, told = behavior.name, behavior.change.verdict
    way = "removed from" if direction == "away" else "added to"
    said = (
        wording.wrong_way(told, direction),
        wording.certainty(behavior),
        wording.price(results.perplexity.rise, results.facts.intervals),
        wording.budget(results.budget),
    )
    return Page(
        title=f"{name}: {results.model}",
        subject=f"{name} ({behavior.title}) {way} {results.model}",
        verdict=verdict_of(behavior),
        tone=wording.tone(told, direction, is_affordable=results.budget.is_met),
        told=tuple(one for one in said if one),
        numbers=_numbers(results),
        tables=(run_table(results),),
        notes=sentences([*run_notes(results), NOT_CHOSEN_ON]),
        figures=_figures(results),
        answers=answers_of(read_pairs(directory, direction)),
        method=METHODS[results.edit.rule],
        facts=_facts(results),
        commands=_commands(directory, record.model),
        record=record,
        inside=(*explained_figures(fit), *inside_figures(results.inside or {})),
        neurons=results.inside or {},
        explained=(COLUMNS, *row_lines(fit)) if fit and fit["rows"] else (),
    )


def verdict_of(behavior: RunBehavior) -> str:
    """What there is to say first: above all, that an edit does not work."""
    outcome, change = behavior.outcome, behavior.change
    is_told = change is not None and change.verdict != NO_CHANGE
    if outcome is None or (outcome.kind == "changed" and is_told):
        return wording.verdict(behavior.name, behavior)
    return wording.capitalized(outcome.sentence)


def _numbers(results: RunResults) -> tuple[Number, ...]:
    behavior, edit = results.behavior, results.edit
    rise, facts = results.perplexity.rise, results.facts.intervals
    share = f"{edit.bytes_changed / edit.bytes_total:.2%}"
    rows = f"of its bytes, in {edit.rows:,} of {edit.rows_found:,} gate rows"
    return (
        change_number(behavior.name, behavior, behavior.direction),
        *price_numbers(rise, facts, results.budget.limits),
        Number("model changed", share, rows),
    )


def _figures(results: RunResults) -> tuple[Figure, ...]:
    behavior, other = results.behavior, results.uncalled_for
    measured: list[tuple[str, Compared]] = [
        (f"{behavior.name}, sampled", behavior),
        (f"{behavior.name}, greedy", behavior.greedy),
        *([] if other is None else [(f"{other.name}, greedy", other)]),
    ]
    rates = rates_figure(measured)
    if not results.dose_response:
        return (rates,)
    uncalled = None if other is None else other.name
    return rates, curve_figure(results.dose_response, behavior.name, uncalled)


def _facts(results: RunResults) -> tuple[tuple[str, str], ...]:
    edit, probe = results.edit, results.probe
    return (
        *_time(results),
        (
            "what was edited",
            f"{edit.rows:,} of {edit.rows_found:,} gate rows in {edit.tensors} of "
            f"{edit.tensors_found} tensors; {edit.bytes_changed:,} of "
            f"{edit.bytes_total:,} bytes changed",
        ),
        ("strength", f"{edit.strength:.3g} (α {edit.alpha:.3g}), {edit_source(edit)}"),
        (
            "probe",
            f"layer {probe.layer}, accuracy {per_cent(probe.accuracy)} on "
            f"{probe.test_texts} held-out texts (with shuffled labels "
            f"{per_cent(probe.control_accuracy)})",
        ),
    )


def _time(results: RunResults) -> tuple[tuple[str, str], ...]:
    """What a run took beside what was planned, stage by stage."""
    plan = results.plan
    if plan is None:
        return ()
    stages = [one for one in plan["stages"] if one["seconds"] >= 1 or (one["took"] or 0) >= 1]
    parts = [
        f"{one['name']} {duration(one['took'] or 0)} ({duration(one['seconds'])} planned)"
        for one in stages
    ]
    whole = f"{duration(results.seconds)}, {duration(plan['seconds'])} planned"
    return (("time", f"{whole}: {'; '.join(parts)}"),)


def _commands(directory: Path, model: str) -> tuple[tuple[str, str], ...]:
    edit, recipe = str(directory / "edit.safetensors"), str(directory / "recipe.resolved.yaml")
    return (
        ("repeat", shlex.join(["surgery", "run", recipe, "--out", "again"])),
        *delivery_commands(model, [edit]),
        adapter_command(model, [edit]),
        ("chat with both", shlex.join(["surgery", "chat", model, "--edit", edit])),
        compare_command(directory),
    )
