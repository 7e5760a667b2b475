"""The page of `surgery evaluate`: a model and its edits on a behavior's protocol."""

import shlex
from pathlib import Path

from modelsurgery.report.comparing import Pairs, read_pairs
from modelsurgery.report.html import wording
from modelsurgery.report.html.commands import compare_command, delivery_commands
from modelsurgery.report.html.content import (
    Number,
    Page,
    Record,
    answers_of,
    change_number,
    price_numbers,
)
from modelsurgery.report.html.figures import group_figures, rates_figure
from modelsurgery.report.html.wording import Tone, per_cent
from modelsurgery.results import Compared, EvaluationResults, Rate
from modelsurgery.results.notes import evaluation_notes, sentences
from modelsurgery.results.tables import evaluation_tables

METHOD = (
    "All models continued the same held-out prompts, and a judge decided which continuations "
    "show the behavior. Edits were applied in memory; no model was changed on disk."
)


def page_of_evaluation(directory: Path, results: EvaluationResults, record: Record) -> Page:
    """The page of an evaluation's results."""
    behavior, sets, model = results.behavior, results.sets, results.model.name
    name, first, other = behavior.name, sets[0], results.uncalled_for
    pairs = read_pairs(directory) if results.edits else None
    edits = ", ".join(Path(path).name for path in results.edits) or "no edit"
    measured: list[tuple[str, Compared]] = [(one.name, one) for one in sets]
    if other is not None:
        measured.append((other.name, other))
    return Page(
        title=f"{name}: {model}",
        subject=f"{name} ({behavior.title}), {model}, {edits}",
        verdict=_verdict(name, first),
        tone=_tone(first, pairs),
        told=_told(results, pairs),
        numbers=_numbers(results, pairs),
        tables=tuple(one for one in evaluation_tables(results) if not one.is_detail),
        notes=sentences(evaluation_notes(results)),
        figures=(rates_figure(measured), *group_figures(sets)),
        answers=None if pairs is None else answers_of(pairs),
        method=METHOD,
        facts=tuple((path, f"SHA-256 {of}") for path, of in results.edits.items()),
        commands=_commands(directory, results, record.model),
        record=record,
    )


def _verdict(name: str, first: Compared) -> str:
    if first.edited is not None:
        return wording.verdict(name, first)
    rate = per_cent(first.base.rate)
    return f"{wording.capitalized(name)} shows in {rate} of held-out prompts."


def _tone(first: Compared, pairs: Pairs | None) -> Tone:
    if pairs is None or first.change is None:
        return "unclear"
    return wording.tone(first.change.verdict, pairs.direction)


def _told(results: EvaluationResults, pairs: Pairs | None) -> tuple[str, ...]:
    """What there is to say of the first prompt set, which decides, and of the damage."""
    first, neutral = results.sets[0], results.damage.neutral_text
    if pairs is None or first.change is None:
        return ()
    told = [wording.wrong_way(first.change.verdict, pairs.direction), wording.certainty(first)]
    if neutral is not None and neutral.rise is not None:
        told.append(wording.price(neutral.rise, _both_facts(results)))
    return tuple(one for one in told if one)


def _both_facts(results: EvaluationResults) -> tuple[Rate, Rate] | None:
    """Exact match of both models, where there are facts and an edit."""
    facts = results.damage.facts
    if facts is None or facts[1] is None:
        return None
    return facts[0], facts[1]


def _numbers(results: EvaluationResults, pairs: Pairs | None) -> tuple[Number, ...]:
    if pairs is None:
        return ()
    neutral = results.damage.neutral_text
    return (
        *(
            change_number(f"{results.behavior.name}, {one.name}", one, pairs.direction)
            for one in results.sets[:2]
            if one.edited is not None and one.change is not None
        ),
        *price_numbers(None if neutral is None else neutral.rise, _both_facts(results), {}),
    )


def _commands(
    directory: Path, results: EvaluationResults, model: str
) -> tuple[tuple[str, str], ...]:
    edits = list(results.edits)
    again = ["surgery", "evaluate", model]
    again += [part for path in edits for part in ("--edit", path)]
    again += ["--behavior", results.behavior.name]
    found = [("measure again", shlex.join(again))]
    if edits:
        found += [*delivery_commands(model, edits), compare_command(directory)]
    return tuple(found)
