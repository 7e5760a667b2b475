"""Several surgeries in a row, in a terminal: all behaviors after each step, and the conflicts."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from modelsurgery.report.terminal import print_table
from modelsurgery.results import SequenceResults
from modelsurgery.results.notes import uncounted
from modelsurgery.results.sequences import ConflictResults
from modelsurgery.results.tables import stage_tables


def print_sequence(results: SequenceResults, console: Console) -> None:
    """Print what a sequence of surgeries gave."""
    link = " and " if results.at_once else ", then "
    then = link.join(f"{one.name} ({one.direction})" for one in results.behaviors)
    for outcome in results.outcomes:
        if outcome.kind != "changed":
            console.print(Text(outcome.sentence, style="bold red"))
    console.print(Text(f"{then}, model {results.model}", style="bold"))
    for stage, table in zip(results.stages, stage_tables(results), strict=True):
        console.print()
        print_table(table, console)
        for one in stage.behaviors:
            for told in uncounted(one.verdicts):
                console.print(Text(f"{one.name}: {told}", style="dim"))
    if results.conflicts:
        console.print()
    for line in conflict_lines(results.conflicts, [one.name for one in results.behaviors]):
        console.print(Text(line))
    console.print(
        Text(
            "every row compares with the original model, on held-out prompts and text", style="dim"
        )
    )
    console.print()
    edits = " ".join(results.edits)
    told = "apply it" if results.at_once else "apply all"
    console.print(Text(f"{told}   surgery apply MODEL {edits} --out edited"))
    console.print(Text(f"results are in {results.run_directory}"))


def conflict_lines(conflicts: Sequence[ConflictResults], names: Sequence[str]) -> list[str]:
    """One line for each pair of edits, named as given."""
    return [
        f"{names[one.first]} and {names[one.second]} {one.verdict}: cosine of directions "
        f"{one.cosine:+.2f}, {one.shared_rows:,} rows shared of {one.rows[0]:,} and "
        f"{one.rows[1]:,}; the second changes the effect of the first by "
        f"{one.first_changed:+.1%}, the first changes the effect of the second by "
        f"{one.second_changed:+.1%}"
        for one in conflicts
    ]
