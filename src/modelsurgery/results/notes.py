"""What there is to say below the tables: how it was measured, and what no rate counts.

Notes have no full stop: `sentences` adds it where one follows the other.
"""

from collections.abc import Iterable

from modelsurgery.results.evaluations import EvaluationResults
from modelsurgery.results.parts import BothVerdicts, Plain
from modelsurgery.results.runs import BudgetUse, RunResults
from modelsurgery.results.tables import paid

WEAKER = (
    "the first choice was over the budget on held-out data; this is a weaker edit, within half of "
    "the budget"
)


def evaluation_notes(results: EvaluationResults) -> list[str]:
    """Notes on an evaluation."""
    notes = [
        "name (prompts); rate (95 % interval); p of a paired sign test over prompts, corrected for "
        "all sets or groups"
    ]
    notes += [f"judge {one.name}: {one.note}" for one in results.judges]
    for one in results.sets:
        for judge, other in one.other_judges.items():
            agreed = other.agreement
            share, kappa = agreed["share"], agreed.get("kappa")
            said = "" if kappa is None else f", kappa {kappa:.2f}"
            shown = "none" if share is None else f"{share:.1%}"
            notes.append(
                f"{one.name}: {results.judges[0].name} and {judge} agree on {shown} of "
                f"{agreed['items']:,} answers{said}"
            )
        notes += [f"{one.name}: {told}" for told in uncounted(one.verdicts)]
    if (uncalled := results.uncalled_for) is not None:
        notes.append(f"{uncalled.name}: {uncalled.base.prompts:,} of {uncalled.title}, greedy")
        notes += [f"{uncalled.name}: {told}" for told in uncounted(uncalled.verdicts)]
    if (neutral := results.damage.neutral_text) is not None:
        notes.append(f"neutral text: {neutral.tokens:,} tokens of {neutral.text}")
    return notes


def run_notes(results: RunResults) -> list[str]:
    """Notes on a run: how it was measured, what was made smaller, what is over the budget."""
    behavior, perplexity = results.behavior, results.perplexity
    notes = [
        f"{behavior.base.prompts} held-out prompts, {behavior.samples_per_prompt} sampled "
        "continuations each; (95 % interval); p of a paired sign test",
        f"judge {results.judge.name}: {results.judge.note}",
        f"perplexity: {perplexity.tokens} tokens of {perplexity.text}",
    ]
    if (other := results.uncalled_for) is not None:
        notes.append(f"{other.name}: {other.base.prompts} of {other.title}, greedy")
    if results.own_answers is not None:
        notes.append(f"own answers: {results.own_answers.answers} to harmless requests")
    if results.origin is not None:
        notes.append(f"model {origin_line(results.origin)}")
    notes += [*reduced_lines(results.plan), *uncounted(results.behavior.verdicts)]
    return [*notes, *budget_notes(results.budget)]


def reduced_lines(plan: Plain | None) -> list[str]:
    """What is smaller than it would be with more time; nothing where nothing is."""
    if plan is None or not plan["reduced"]:
        return []
    parts = [f"{one['what']} {one['from']} → {one['to']}" for one in plan["reduced"]]
    minutes = f"{plan['minutes']:g} minutes"
    return [f"reduced to fit {minutes}: {', '.join(parts)} (raise --minutes for more)"]


def budget_notes(budget: BudgetUse) -> list[str]:
    """What there is to say when an edit is over the budget on held-out data."""
    over = [paid(name, one) for name, one in budget.limits.items() if one.is_inside is False]
    lines = [] if budget.given_up is None else [WEAKER]
    return [*lines, f"over the budget: {', '.join(over)}"] if over else lines


def uncounted(verdicts: BothVerdicts) -> list[str]:
    """One sentence for each model of which continuations are in no rate."""
    lines = []
    for side, counts in (("base", verdicts.base), ("edited", verdicts.edited or {})):
        missing = counts.get("failed", 0) + counts.get("unjudged", 0)
        if missing:
            lines.append(
                f"{missing:,} of {sum(counts.values()):,} {side} continuations were empty or could "
                "not be judged; they are not counted as harmless"
            )
    return lines


def origin_line(origin: dict[str, object]) -> str:
    """Where a fetched model came from."""
    title = origin.get("title") or origin["model"]
    return ", ".join(str(one) for one in (title, origin.get("note"), origin.get("from")) if one)


def sentences(notes: Iterable[str]) -> tuple[str, ...]:
    """Notes as sentences, with a large first letter and a full stop."""
    return tuple(f"{one[:1].upper()}{one[1:]}." for one in notes)
