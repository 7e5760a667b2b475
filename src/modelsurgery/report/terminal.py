"""Results of a run or an evaluation in a terminal: tables, the edit in three lines, examples.

What a model wrote is untrusted: it is shown as text, never as markup, without control characters.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from modelsurgery.report.curve import print_curve
from modelsurgery.report.edits import edit_source, fit_lines, shown_layers
from modelsurgery.report.lines import print_line, print_lines
from modelsurgery.report.masking import masked_sides
from modelsurgery.report.untrusted import in_one_line
from modelsurgery.results import EvaluationResults, RunResults
from modelsurgery.results.notes import evaluation_notes, run_notes
from modelsurgery.results.printing import evaluation_headline, table_lines
from modelsurgery.results.runs import Example
from modelsurgery.results.tables import Table, evaluation_tables, run_table


def print_results(results: RunResults, console: Console, *, show_offensive: bool = False) -> None:
    """Print what a run found.

    Of the examples, answers that show the behavior or were not judged are masked unless asked for,
    and so are the prompts beside them.
    """
    outcome = results.behavior.outcome
    if outcome is not None and outcome.kind != "changed":
        print_line(outcome.sentence, console, "bold red")
    print_line(headline(results), console, "bold")
    print_table(run_table(results), console)
    print_lines(run_notes(results), console, "dim")
    console.print()
    print_lines(_edit_lines(results), console)
    if results.dose_response:
        console.print()
        print_curve(results, console)
    _print_examples(results.examples, console, show_offensive)
    console.print()
    print_place(results, console)


def print_evaluation(results: EvaluationResults, console: Console) -> None:
    """Print what an evaluation found."""
    print_line(evaluation_headline(results), console, "bold")
    for number, table in enumerate(evaluation_tables(results)):
        if number:
            console.print()
        print_table(table, console)
    print_lines(evaluation_notes(results), console, "dim")


def print_table(table: Table, console: Console) -> None:
    """Print a table; lines that stand beside others are dim."""
    head, *lines = table_lines(table)
    if table.caption:
        print_line(table.caption, console, "bold")
    print_line(head, console, "bold")
    for line, row in zip(lines, table.rows, strict=True):
        print_line(line, console, "dim" if row.is_aside else "")
    if table.note:
        print_line(table.note, console, "dim")


def print_place(results: RunResults, console: Console) -> None:
    """Say where everything is."""
    print_line(f"results are in {results.run_directory} ({results.seconds:.0f} s)", console)
    print_line(f"report: {results.run_directory}/report.html", console, "bold")


def headline(results: RunResults) -> str:
    """What was done, to which model."""
    behavior = results.behavior
    done = "added" if behavior.direction == "toward" else "removed"
    return f"{behavior.name} ({behavior.title}) {done}, model {results.model}"


def _print_examples(examples: Sequence[Example], console: Console, show_offensive: bool) -> None:
    is_masked = False
    for example in examples:
        shown = said = (example.prompt, example.base, example.edited)
        if not show_offensive:
            shown = masked_sides(*said, example.base_verdict, example.edited_verdict)
        is_masked = is_masked or shown != said
        styles = {"prompt": "bold", "base": "bold red", "edited": "bold green"}
        console.print()
        for (name, style), text in zip(styles.items(), shown, strict=True):
            console.print(Text.assemble((f"{name:<8}", style), in_one_line(text)))
    if is_masked:
        note = "answers that show the behavior are masked; --show-offensive shows them"
        print_line(note, console, "dim")


def _edit_lines(results: RunResults) -> list[str]:
    probe, edit = results.probe, results.edit
    return [
        f"probe   accuracy {probe.accuracy:.1%}, AUROC {probe.auroc:.3f} on "
        f"{probe.test_texts} held-out texts (shuffled labels "
        f"{probe.control_accuracy:.1%}), layer {probe.layer}, fit {probe.fit}",
        f"edit    {edit.rows} of {edit.rows_found} gate rows in {edit.tensors} of "
        f"{edit.tensors_found} tensors, {shown_layers(edit.layers, edit.per_layer)}, "
        f"{edit_source(edit)}, strength {edit.strength:.3g}",
        *fit_lines(results.fit),
        f"bytes   {edit.bytes_changed:,} of {edit.bytes_total:,} changed "
        f"({edit.bytes_changed / edit.bytes_total:.2%})",
    ]
