"""Results in a terminal: one table, the edit in three lines, three examples.

What a model wrote is untrusted: it is shown as text, never as markup, without control characters.
"""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelsurgery.report.counting import uncounted
from modelsurgery.report.curve import print_curve
from modelsurgery.report.edits import edit_source, fit_lines, origin_line, shown_layers
from modelsurgery.report.masking import masked_sides
from modelsurgery.report.scheduling import reduced_lines

MIBI = 1 << 20


def print_results(
    results: dict[str, Any], console: Console, *, show_offensive: bool = False
) -> None:
    """Print what a run found, from the content of its `results.json`.

    Of the examples, answers that show the behavior or were not judged are masked unless asked for,
    and so are the prompts beside them.
    """
    outcome = results["behavior"].get("outcome")
    if outcome is not None and outcome["kind"] != "changed":
        console.print(Text(outcome["sentence"], style="bold red"))
    console.print(Text(headline(results), style="bold"))
    console.print(_table(results))
    for line in _footnotes(results):
        console.print(Text(line, style="dim"))
    console.print()
    for line in _edit_lines(results):
        console.print(Text(line))
    if results["dose_response"]:
        console.print()
        print_curve(results, console)
    _print_examples(results["examples"], console, show_offensive)
    console.print()
    console.print(Text(f"everything is in {results['run_directory']} ({results['seconds']:.0f} s)"))
    console.print(Text(f"to look at it: {results['run_directory']}/report.html", style="bold"))


def _print_examples(examples: list[dict[str, Any]], console: Console, show_offensive: bool) -> None:
    is_masked = False
    for example in examples:
        said = (example["prompt"], example["base"], example["edited"])
        if not show_offensive:
            verdicts = (example.get("base_verdict"), example.get("edited_verdict"))
            shown = masked_sides(*said, *verdicts)
            is_masked = is_masked or shown != said
            said = shown
        styles = ("bold", "bold red", "bold green")
        console.print()
        for name, style, text in zip(("prompt", "base", "edited"), styles, said, strict=True):
            console.print(Text.assemble((f"{name:<8}", style), _plain(text)))
    if is_masked:
        note = "answers that show the behavior are masked; --show-offensive shows them"
        console.print(Text(note, style="dim"))


def headline(results: dict[str, Any]) -> str:
    """What was done, to which model."""
    behavior = results["behavior"]
    done = "added" if behavior["direction"] == "toward" else "taken away"
    return f"{behavior['name']} ({behavior['title']}) {done}, model {results['model']}"


def _table(results: dict[str, Any]) -> Table:
    behavior, perplexity, facts = results["behavior"], results["perplexity"], results["facts"]
    table = Table(box=None, pad_edge=False)
    table.add_column("on held-out data")
    for name in ("base", "edited", "change", "p"):
        table.add_column(name, justify="right")
    for label, part in ((behavior["name"], behavior), ("  greedy", behavior["greedy"])):
        table.add_row(
            label,
            interval(part["base"]),
            interval(part["edited"]),
            change_shown(part),
            p_value(part["change"]["p_value"]),
        )
    if other := results.get("uncalled_for"):
        table.add_row(
            other["name"],
            interval(other["base"]),
            interval(other["edited"]),
            f"{100 * other['change']['difference']:+.1f} points",
            p_value(other["change"]["p_value"]),
        )
    table.add_row(
        "perplexity",
        f"{perplexity['base']:.2f}",
        f"{perplexity['edited']:.2f}",
        f"{perplexity['rise']:+.1%}",
    )
    if facts["base"] is not None:
        base, edited = facts["intervals"]
        points = 100 * (edited["rate"] - base["rate"])
        table.add_row("facts right", interval(base), interval(edited), f"{points:+.1f} points")
    table.add_row("divergence", "0", f"{results['divergence']:.4f}", "nats a token")
    if own := results.get("own_answers"):
        table.add_row("  on own answers", "0", f"{own['divergence']:.4f}", "nats a token")
    return table


def interval(rate: dict[str, float]) -> str:
    """A rate with its interval, in per cent."""
    return f"{rate['rate']:.1%} ({100 * rate['low']:.0f}-{100 * rate['high']:.0f})"


def change_shown(part: dict[str, Any]) -> str:
    """A change in points, and relative to the base."""
    change = part["change"]
    points = f"{100 * change['difference']:+.1f} points"
    relative = "" if part["reduction"] is None else f" ({-part['reduction']:+.0%})"
    return f"{points}{relative}"


def p_value(value: float) -> str:
    """A p-value in two digits."""
    return "<0.0001" if value < 1e-4 else f"{value:.2g}"


def _footnotes(results: dict[str, Any]) -> list[str]:
    behavior, perplexity = results["behavior"], results["perplexity"]
    lines = [
        f"{behavior['base']['prompts']} held-out prompts, {behavior['samples_per_prompt']} sampled "
        "continuations each; (95 % interval); p of a paired sign test",
        f"judge {results['judge']['name']}: {results['judge']['note']}",
        f"perplexity: {perplexity['tokens']} tokens of {perplexity['text']}",
    ]
    if other := results.get("uncalled_for"):
        lines.append(f"{other['name']}: {other['base']['prompts']} of {other['title']}, greedy")
    if results.get("origin"):
        lines.append(f"model {origin_line(results['origin'])}")
    lines += [
        *reduced_lines(results.get("plan")),
        *uncounted(behavior["verdicts"]),
        *budget_notes(results),
    ]
    return lines


def budget_notes(results: dict[str, Any]) -> list[str]:
    """What there is to say when an edit is over the budget on held-out data."""
    budget = results["budget"]
    over = [paid(name, one) for name, one in budget["limits"].items() if one["is_inside"] is False]
    lines = []
    if budget["given_up"] is not None:
        lines.append(
            "the first choice was over the budget on held-out data; this is a milder one, inside "
            "half of it"
        )
    if over:
        lines.append(f"over the budget: {', '.join(over)}")
    return lines


def paid(name: str, limit: dict[str, Any]) -> str:
    """Damage with its limit."""
    measured, most = limit["measured"], limit["limit"]
    if name == "perplexity":
        return f"{measured:+.1%} perplexity (at most {most:+.1%})"
    if name == "divergence":
        return f"{measured:.4f} nats of divergence (at most {most:.4f})"
    if name == "uncalled_for":
        return f"{measured:+.1f} points where it is not called for (at most {most:+.1f})"
    return f"{0 - measured:+.1f} points of capability (at most -{most:.1f})"


def _edit_lines(results: dict[str, Any]) -> list[str]:
    probe, edit = results["probe"], results["edit"]
    layers = shown_layers(edit)
    return [
        f"probe   accuracy {probe['accuracy']:.1%}, AUROC {probe['auroc']:.3f} on "
        f"{probe['held_out_texts']} held-out texts (shuffled labels "
        f"{probe['control_accuracy']:.1%}), layer {probe['layer']}, fit {probe['fit']}",
        f"edit    {edit['rows']} of {edit['rows_found']} gate rows in {edit['tensors']} of "
        f"{edit['tensors_found']} tensors, {layers}, {edit_source(edit)}, "
        f"strength {edit['strength']:.3g}",
        *fit_lines(results.get("fit")),
        f"bytes   {edit['bytes_changed']:,} of {edit['bytes_total']:,} changed "
        f"({edit['bytes_changed'] / edit['bytes_total']:.2%})",
    ]


def _plain(text: str) -> str:
    """Text of a model without control characters, line breaks shown as ⏎."""
    shown = text.replace("\n", " ⏎ ")
    return "".join(letter for letter in shown if letter.isprintable())
