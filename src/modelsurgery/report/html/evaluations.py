"""The page of `surgery evaluate`: a model and its edits on a behavior's protocol."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelsurgery.report.comparing import Pairs, read_pairs
from modelsurgery.report.counting import uncounted
from modelsurgery.report.html import wording
from modelsurgery.report.html.content import Answers, Number, Page, Record, Tone, answers_of
from modelsurgery.report.html.figures import group_figures, rates_figure
from modelsurgery.report.html.measured import (
    Row,
    facts_rows,
    perplexity_rows,
    points,
    quality_rows,
    set_rows,
    task_row,
)
from modelsurgery.report.html.wording import per_cent, signed

METHOD = (
    "All models continued the same held-out prompts, and a judge said which continuations show the "
    "behavior. Edits were applied in memory; no model was written to."
)


def page_of_evaluation(directory: Path, results: Mapping[str, Any], record: Record) -> Page:
    """The page of the content of an evaluation's `results.json`."""
    behavior, sets, model = results["behavior"], results["sets"], results["model"]["name"]
    name, first = behavior["name"], sets[0]
    pairs = read_pairs(directory) if results["edits"] else None
    edits = ", ".join(Path(path).name for path in results["edits"]) or "no edit"
    rates = rates_figure([(one["name"], one["base"], one["edited"]) for one in sets])
    return Page(
        title=f"{name}: {model}",
        subject=f"{name} ({behavior['title']}), {model}, {edits}",
        verdict=_verdict(name, first),
        tone=_tone(first, pairs),
        told=_told(results, pairs),
        numbers=_numbers(results, pairs),
        tables=_tables(results),
        notes=_notes(results),
        figures=(rates, *group_figures(sets)),
        answers=Answers() if pairs is None else answers_of(pairs),
        method=METHOD,
        facts=tuple((path, f"SHA-256 {of}") for path, of in results["edits"].items()),
        commands=_commands(directory, results, record.model),
        record=record,
    )


def _verdict(name: str, first: Mapping[str, Any]) -> str:
    if first["edited"] is not None:
        return wording.verdict(name, first)
    rate = per_cent(first["base"]["rate"])
    return f"{wording.capitalized(name)} shows in {rate} of held-out prompts."


def _tone(first: Mapping[str, Any], pairs: Pairs | None) -> Tone:
    if pairs is None:
        return "unclear"
    return wording.tone(first["change"]["verdict"], pairs.direction)


def _told(results: Mapping[str, Any], pairs: Pairs | None) -> tuple[str, ...]:
    """What there is to say of the first prompt set, which decides, and of the damage."""
    if pairs is None:
        return ()
    first, damage = results["sets"][0], results["damage"]
    told = [wording.wrong_way(first["change"]["verdict"], pairs.direction)]
    told.append(wording.certainty(first))
    if damage["neutral_text"]:
        told.append(wording.price(damage["neutral_text"]["rise"], damage["facts"]))
    return tuple(one for one in told if one)


def _numbers(results: Mapping[str, Any], pairs: Pairs | None) -> tuple[Number, ...]:
    if pairs is None:
        return ()
    found = [
        Number(
            f"{results['behavior']['name']}, {one['name']}",
            f"{per_cent(one['base']['rate'])} → {per_cent(one['edited']['rate'])}",
            f"{signed(100 * one['change']['difference'])} points of "
            f"{one['base']['prompts']:,} prompts",
            _tone(one, pairs),
        )
        for one in results["sets"][:2]
    ]
    damage = results["damage"]
    if damage["neutral_text"]:
        rise = f"{signed(100 * damage['neutral_text']['rise'])}%"
        found.append(Number("perplexity", rise, "ordinary text"))
    if damage["facts"]:
        base, edited = (one["rate"] for one in damage["facts"])
        shown = f"{per_cent(base)} → {per_cent(edited)}"
        found.append(Number("facts right", shown, points(base, edited)))
    return tuple(found)


def _tables(results: Mapping[str, Any]) -> tuple[tuple[str, tuple[Row, ...]], ...]:
    damage, sets = results["damage"], results["sets"]
    broken = [row for one in sets for row in quality_rows(one)]
    if neutral := damage["neutral_text"]:
        broken += perplexity_rows(
            neutral["base_perplexity"], neutral["edited_perplexity"], neutral["divergence"]
        )
    broken += facts_rows(damage["facts"], has_edit=bool(results["edits"]))
    broken += [task_row(name, task) for name, task in damage["tasks"].items()]
    return (
        ("on held-out prompts", tuple(row for one in sets for row in set_rows(one))),
        ("what it may have broken", tuple(broken)),
    )


def _notes(results: Mapping[str, Any]) -> tuple[str, ...]:
    notes = [
        "In brackets: 95% intervals; p of a paired sign test over prompts, corrected for all sets "
        "or groups."
    ]
    notes += [f"Judge {one['name']}: {one['note']}." for one in results["judges"]]
    for one in results["sets"]:
        notes += [
            f"{one['name']}: {results['judges'][0]['name']} and {judge} agree on "
            f"{per_cent(other['agreement']['share'])} of {other['agreement']['items']:,} answers."
            for judge, other in one["other_judges"].items()
        ]
        notes += [f"{one['name']}: {told}." for told in uncounted(one["verdicts"])]
    if neutral := results["damage"]["neutral_text"]:
        notes.append(f"Neutral text: {neutral['tokens']:,} tokens of {neutral['text']}.")
    return tuple(notes)


def _commands(
    directory: Path, results: Mapping[str, Any], model: str
) -> tuple[tuple[str, str], ...]:
    edits = list(results["edits"])
    again = ["surgery", "evaluate", model]
    again += [part for path in edits for part in ("--edit", path)]
    again += ["--behavior", results["behavior"]["name"]]
    found = [("measure again", shlex.join(again))]
    if edits:
        apply = ["surgery", "apply", model, *edits, "--out", "edited"]
        found += [
            ("apply to a copy", shlex.join(apply)),
            ("take it back", "surgery undo edited"),
            ("read all answers", shlex.join(["surgery", "compare", str(directory)])),
        ]
    return tuple(found)
