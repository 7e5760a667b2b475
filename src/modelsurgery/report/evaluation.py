"""An evaluation in a terminal: one table of the behavior, one of the damage, what to make of it."""

from rich.console import Console
from rich.text import Text

from modelsurgery.report.terminal import print_table
from modelsurgery.results import EvaluationResults
from modelsurgery.results.notes import evaluation_notes
from modelsurgery.results.printing import evaluation_headline
from modelsurgery.results.tables import evaluation_tables


def print_evaluation(results: EvaluationResults, console: Console) -> None:
    """Print an evaluation."""
    console.print(Text(evaluation_headline(results), style="bold"))
    for number, table in enumerate(evaluation_tables(results)):
        if number:
            console.print()
        print_table(table, console)
    for line in evaluation_notes(results):
        console.print(Text(line, style="dim"))
