"""A grid of runs in a terminal: what each of them did, and which failed."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from modelsurgery.report.lines import print_line, print_lines
from modelsurgery.results import Results, RunResults, SequenceResults


def print_grid(
    results: Mapping[str, Results], failed: Mapping[str, str], directory: Path, console: Console
) -> None:
    """Print a few lines for each run, by the name of its directory."""
    for name, one in results.items():
        print_line(name, console, "bold")
        print_lines((f"  {line}" for line in _lines(one)), console)
    for name, why in failed.items():
        print_line(name, console, "bold")
        print_line(f"  failed: {why}", console, "bold red")
    print_line(f"each run has results and a report in {directory}", console)


def _lines(results: Results) -> list[str]:
    if isinstance(results, SequenceResults):
        return [one.sentence for one in results.outcomes]
    if not isinstance(results, RunResults):
        return []
    outcome, rise = results.behavior.outcome, results.perplexity.rise
    over = "" if results.budget.is_met else ", over the damage budget"
    price = f"perplexity {rise:+.1%}, divergence {results.divergence:.2g} nats per token{over}"
    return [*([] if outcome is None else [outcome.sentence]), price]
