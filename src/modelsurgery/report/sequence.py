"""Several surgeries in a row, in a terminal: all behaviors after each step, and the conflicts."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelsurgery.report.counting import uncounted
from modelsurgery.report.terminal import change_shown, interval, p_value


def print_sequence(results: dict[str, Any], console: Console) -> None:
    """Print what a sequence of surgeries gave, from the content of its `results.json`."""
    names = [one["name"] for one in results["behaviors"]]
    ways = {one["name"]: one["direction"] for one in results["behaviors"]}
    then = ", then ".join(f"{name} ({ways[name]})" for name in names)
    for one in results.get("outcomes", ()):
        if one["kind"] != "changed":
            console.print(Text(one["sentence"], style="bold red"))
    console.print(Text(f"{then}, model {results['model']}", style="bold"))
    for number, stage in enumerate(results["stages"], 1):
        console.print()
        console.print(Text(f"after {' and '.join(names[:number])}", style="bold"))
        console.print(_table(stage))
        for one in stage["behaviors"]:
            for told in uncounted(one["verdicts"]):
                console.print(Text(f"{one['name']}: {told}", style="dim"))
    console.print()
    for line in conflict_lines(results["conflicts"], names):
        console.print(Text(line))
    console.print(
        Text("every row is against the untouched model, on held-out prompts and text", style="dim")
    )
    console.print()
    edits = " ".join(results["edits"])
    console.print(Text(f"all together   surgery apply MODEL {edits} --out edited"))
    console.print(Text(f"everything is in {results['run_directory']}"))


def _table(stage: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("on held-out data", no_wrap=True)
    for name in ("base", "edited", "change", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in stage["behaviors"]:
        change = change_shown(one), p_value(one["change"]["p_value"])
        table.add_row(one["name"], interval(one["base"]), interval(one["edited"]), *change)
    table.add_row("perplexity", "", "", f"{stage['damage']['perplexity']['measured']:+.1%}")
    if stage["facts"] is not None:
        base, edited = stage["facts"]
        points = f"{100 * (edited['rate'] - base['rate']):+.1f} points"
        table.add_row("facts right", interval(base), interval(edited), points)
    return table


def conflict_lines(conflicts: list[dict[str, Any]], names: list[str]) -> list[str]:
    """One line for each pair of edits, named as given."""
    return [
        f"{names[one['first']]} and {names[one['second']]} {one['verdict']}: cosine of directions "
        f"{one['cosine']:+.2f}, {one['shared_rows']:,} rows shared of {one['rows'][0]:,} and "
        f"{one['rows'][1]:,}; the second adds {one['first_changed']:+.1%} of the first, the first "
        f"{one['second_changed']:+.1%} of the second"
        for one in conflicts
    ]
