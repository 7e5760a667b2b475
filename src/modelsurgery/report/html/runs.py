"""The page of `surgery run` and `surgery tune`: one edit, its measurement, and its inside."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelsurgery.report.comparing import read_pairs
from modelsurgery.report.counting import uncounted
from modelsurgery.report.edits import METHODS, edit_source, origin_line, rule_of
from modelsurgery.report.explained import COLUMNS, row_lines
from modelsurgery.report.html import wording
from modelsurgery.report.html.content import Number, Page, Record, Tone, answers_of
from modelsurgery.report.html.figures import (
    Figure,
    curve_figure,
    explained_figures,
    inside_figures,
    rates_figure,
)
from modelsurgery.report.html.measured import (
    Row,
    behavior_row,
    facts_rows,
    own_rows,
    perplexity_rows,
    points,
)
from modelsurgery.report.html.wording import per_cent, signed
from modelsurgery.report.scheduling import duration, reduced_lines


def page_of_run(directory: Path, results: Mapping[str, Any], record: Record) -> Page:
    """The page of the content of a run's `results.json`."""
    behavior, direction = results["behavior"], results["behavior"]["direction"]
    name, told = behavior["name"], behavior["change"]["verdict"]
    way = "taken away from" if direction == "away" else "added to"
    sentences = (
        wording.wrong_way(told, direction),
        wording.certainty(behavior),
        wording.price(results["perplexity"]["rise"], results["facts"]["intervals"]),
        wording.budget(results),
    )
    return Page(
        title=f"{name}: {results['model']}",
        subject=f"{name} ({behavior['title']}) {way} {results['model']}",
        verdict=_verdict(name, behavior),
        tone=wording.tone(told, direction, is_affordable=results["budget"]["is_met"]),
        told=tuple(one for one in sentences if one),
        numbers=_numbers(results),
        tables=_tables(results),
        notes=_notes(results),
        figures=_figures(results),
        answers=answers_of(read_pairs(directory, direction)),
        method=METHODS[rule_of(results["edit"])],
        facts=_facts(results),
        commands=_commands(directory, record.model),
        record=record,
        inside=(
            *explained_figures(results.get("fit")),
            *inside_figures(results.get("inside") or {}),
        ),
        neurons=results.get("inside") or {},
        explained=_explained(results.get("fit")),
    )


def _verdict(name: str, behavior: Mapping[str, Any]) -> str:
    """What there is to say first: above all, that an edit does not work."""
    outcome = behavior.get("outcome")
    is_told = behavior["change"]["verdict"] != wording.NO_CHANGE
    if outcome is None or (outcome["kind"] == "changed" and is_told):
        return wording.verdict(name, behavior)
    return wording.capitalized(outcome["sentence"])


def _numbers(results: Mapping[str, Any]) -> tuple[Number, ...]:
    behavior, edit, change = results["behavior"], results["edit"], results["behavior"]["change"]
    limits, facts = results["budget"]["limits"], results["facts"]["intervals"]
    gain = Number(
        behavior["name"],
        f"{per_cent(behavior['base']['rate'])} → {per_cent(behavior['edited']['rate'])}",
        f"{signed(100 * change['difference'])} points of {behavior['base']['prompts']:,} prompts",
        wording.tone(change["verdict"], behavior["direction"]),
    )
    rise = results["perplexity"]["rise"]
    most, tone = _limit(limits, "perplexity")
    allowed = "" if most is None else f"; at most {signed(100 * most)}% was allowed"
    found = [gain, Number("perplexity", f"{signed(100 * rise)}%", f"ordinary text{allowed}", tone)]
    if facts:
        base, edited = (one["rate"] for one in facts)
        most, tone = _limit(limits, "capability")
        allowed = "" if most is None else f"; at most {signed(-most)} was allowed"
        shown = f"{per_cent(base)} → {per_cent(edited)}"
        found.append(Number("facts right", shown, points(base, edited) + allowed, tone))
    share = f"{edit['bytes_changed'] / edit['bytes_total']:.2%}"
    rows = f"of its bytes, in {edit['rows']:,} of {edit['rows_found']:,} gate rows"
    return (*found, Number("model changed", share, rows))


def _limit(limits: Mapping[str, Any], name: str) -> tuple[float | None, Tone]:
    """What was allowed, and whether it was kept."""
    limit = limits.get(name) or {"limit": None, "is_inside": None}
    tones: dict[bool | None, Tone] = {True: "good", False: "bad", None: "unclear"}
    return limit["limit"], tones[limit["is_inside"]]


def _tables(results: Mapping[str, Any]) -> tuple[tuple[str, tuple[Row, ...]], ...]:
    behavior, perplexity = results["behavior"], results["perplexity"]
    name = behavior["name"]
    rows: tuple[Row, ...]
    rows = (behavior_row(f"{name}, sampled", behavior),
            behavior_row(f"{name}, greedy", behavior["greedy"]))  # fmt: skip
    if other := results.get("uncalled_for"):
        rows = (*rows, behavior_row(f"{other['name']}, greedy", other))
    damage = (
        *perplexity_rows(perplexity["base"], perplexity["edited"], results["divergence"]),
        *own_rows(results.get("own_answers")),
        *facts_rows(results["facts"]["intervals"]),
    )
    return ("on held-out prompts", rows), ("what it may have broken", damage)


def _notes(results: Mapping[str, Any]) -> tuple[str, ...]:
    behavior, perplexity = results["behavior"], results["perplexity"]
    notes = [
        f"In brackets: 95% intervals. {behavior['base']['prompts']:,} prompts, "
        f"{behavior['samples_per_prompt']} sampled continuations each; p of a paired sign test "
        "over prompts. Nothing that is measured here was used to choose the edit.",
        f"Judge {results['judge']['name']}: {results['judge']['note']}.",
        f"Neutral text: {perplexity['tokens']:,} tokens of {perplexity['text']}.",
    ]
    if results.get("origin"):
        notes.append(f"Model: {origin_line(results['origin'])}.")
    notes += [f"{wording.capitalized(told)}." for told in reduced_lines(results.get("plan"))]
    notes += [f"{told}." for told in uncounted(behavior["verdicts"])]
    return tuple(notes)


def _figures(results: Mapping[str, Any]) -> tuple[Figure, ...]:
    behavior = results["behavior"]
    sampled, greedy = f"{behavior['name']}, sampled", f"{behavior['name']}, greedy"
    rates = rates_figure(
        [
            (sampled, behavior["base"], behavior["edited"]),
            (greedy, behavior["greedy"]["base"], behavior["greedy"]["edited"]),
        ]
    )
    if not results["dose_response"]:
        return (rates,)
    return rates, curve_figure(results["dose_response"], behavior["name"])


def _facts(results: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    edit, probe = results["edit"], results["probe"]
    return (
        *_time(results),
        (
            "what was edited",
            f"{edit['rows']:,} of {edit['rows_found']:,} gate rows in {edit['tensors']} of "
            f"{edit['tensors_found']} tensors; {edit['bytes_changed']:,} of "
            f"{edit['bytes_total']:,} bytes changed",
        ),
        (
            "strength",
            f"{edit['strength']:.3g} (α {edit['alpha']:.3g}), {edit_source(edit)}",
        ),
        (
            "probe",
            f"layer {probe['layer']}, accuracy {per_cent(probe['accuracy'])} on "
            f"{probe['held_out_texts']} held-out texts (with shuffled labels "
            f"{per_cent(probe['control_accuracy'])})",
        ),
    )


def _explained(fit: Mapping[str, Any] | None) -> tuple[tuple[str, ...], ...]:
    """The table of rows that the rule expected most of, its head first; nothing without one."""
    if not fit or not fit.get("rows"):
        return ()
    return COLUMNS, *row_lines(fit)


def _time(results: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What a run took beside what was planned, stage by stage."""
    plan = results.get("plan")
    if plan is None:
        return ()
    stages = [one for one in plan["stages"] if one["seconds"] >= 1 or (one["took"] or 0) >= 1]
    parts = [
        f"{one['name']} {duration(one['took'] or 0)} ({duration(one['seconds'])} planned)"
        for one in stages
    ]
    whole = f"{duration(results['seconds'])}, {duration(plan['seconds'])} planned"
    return (("time", f"{whole}: {'; '.join(parts)}"),)


def _commands(directory: Path, model: str) -> tuple[tuple[str, str], ...]:
    edit = str(directory / "edit.safetensors")

    def command(*parts: str) -> str:
        return shlex.join(["surgery", *parts])

    return (
        ("repeat", command("run", str(directory / "recipe.resolved.yaml"), "--out", "again")),
        ("apply to a copy", command("apply", model, edit, "--out", "edited")),
        ("take it back", command("undo", "edited")),
        ("adapter for PEFT", command("export", model, edit, "--to", "peft", "--out", "adapter")),
        ("talk to both", command("chat", model, "--edit", edit)),
        ("read all answers", command("compare", str(directory))),
    )
