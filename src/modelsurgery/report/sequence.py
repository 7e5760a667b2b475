"""Several surgeries in a row, in a terminal: all behaviors after each step, and the conflicts."""

from collections.abc import Sequence

from rich.console import Console

from modelsurgery.report.lines import print_line, print_lines
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
            print_line(outcome.sentence, console, "bold red")
    print_line(f"{then}, model {results.model}", console, "bold")
    for stage, table in zip(results.stages, stage_tables(results), strict=True):
        console.print()
        print_table(table, console)
        for one in stage.behaviors:
            told = (f"{one.name}: {line}" for line in uncounted(one.verdicts))
            print_lines(told, console, "dim")
    if results.conflicts:
        console.print()
    names = [one.name for one in results.behaviors]
    print_lines(conflict_lines(results.conflicts, names), console)
    compared = "every row compares with the original model, on held-out prompts and text"
    print_line(compared, console, "dim")
    console.print()
    edits = " ".join(results.edits)
    apply = "apply it" if results.at_once else "apply all"
    print_line(f"{apply}   surgery apply MODEL {edits} --out edited", console)
    print_line(f"results are in {results.run_directory}", console)


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
