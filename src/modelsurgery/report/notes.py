"""Notes on a run that go below its tables: what was made smaller, what is over the budget."""

from modelsurgery.report.scheduling import reduced_lines
from modelsurgery.results import RunResults
from modelsurgery.results.notes import run_notes, uncounted
from modelsurgery.results.tables import paid


def notes_of_run(results: RunResults) -> list[str]:
    """All notes on a run, without their full stops."""
    return [
        *run_notes(results),
        *reduced_lines(results.plan),
        *uncounted(results.behavior.verdicts),
        *budget_notes(results),
    ]


def budget_notes(results: RunResults) -> list[str]:
    """What there is to say when an edit is over the budget on held-out data."""
    budget = results.budget
    over = [paid(name, one) for name, one in budget.limits.items() if one.is_inside is False]
    lines = []
    if budget.given_up is not None:
        lines.append(
            "the first choice was over the budget on held-out data; this is a weaker edit, "
            "within half of the budget"
        )
    if over:
        lines.append(f"over the budget: {', '.join(over)}")
    return lines
