"""Results in a terminal: one table, the edit in three lines, three examples.

What a model wrote is untrusted: it is shown as text, never as markup, without control characters.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from modelsurgery.report.curve import print_curve
from modelsurgery.report.edits import edit_source, fit_lines, shown_layers
from modelsurgery.report.masking import masked_sides
from modelsurgery.report.notes import notes_of_run
from modelsurgery.report.untrusted import in_one_line
from modelsurgery.results import RunResults
from modelsurgery.results.printing import table_lines
from modelsurgery.results.runs import Example
from modelsurgery.results.tables import Table, run_table


def print_results(results: RunResults, console: Console, *, show_offensive: bool = False) -> None:
    """Print what a run found.

    Of the examples, answers that show the behavior or were not judged are masked unless asked for,
    and so are the prompts beside them.
    """
    outcome = results.behavior.outcome
    if outcome is not None and outcome.kind != "changed":
        console.print(Text(outcome.sentence, style="bold red"))
    console.print(Text(headline(results), style="bold"))
    print_table(run_table(results), console)
    for line in notes_of_run(results):
        console.print(Text(line, style="dim"))
    console.print()
    for line in _edit_lines(results):
        console.print(Text(line))
    if results.dose_response:
        console.print()
        print_curve(results, console)
    _print_examples(results.examples, console, show_offensive)
    console.print()
    print_place(results, console)


def print_table(table: Table, console: Console) -> None:
    """Print a table; lines that stand beside others are dim."""
    head, *lines = table_lines(table)
    if table.caption:
        console.print(Text(table.caption, style="bold"))
    console.print(Text(head, style="bold"))
    for line, row in zip(lines, table.rows, strict=True):
        console.print(Text(line, style="dim" if row.is_aside else ""))
    if table.note:
        console.print(Text(table.note, style="dim"))


def print_place(results: RunResults, console: Console) -> None:
    """Say where everything is."""
    console.print(Text(f"results are in {results.run_directory} ({results.seconds:.0f} s)"))
    console.print(Text(f"report: {results.run_directory}/report.html", style="bold"))


def headline(results: RunResults) -> str:
    """What was done, to which model."""
    behavior = results.behavior
    done = "added" if behavior.direction == "toward" else "removed"
    return f"{behavior.name} ({behavior.title}) {done}, model {results.model}"


def _print_examples(examples: Sequence[Example], console: Console, show_offensive: bool) -> None:
    is_masked = False
    for example in examples:
        said = (example.prompt, example.base, example.edited)
        if not show_offensive:
            shown = masked_sides(*said, example.base_verdict, example.edited_verdict)
            is_masked = is_masked or shown != said
            said = shown
        styles = ("bold", "bold red", "bold green")
        console.print()
        for name, style, text in zip(("prompt", "base", "edited"), styles, said, strict=True):
            console.print(Text.assemble((f"{name:<8}", style), in_one_line(text)))
    if is_masked:
        note = "answers that show the behavior are masked; --show-offensive shows them"
        console.print(Text(note, style="dim"))


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
