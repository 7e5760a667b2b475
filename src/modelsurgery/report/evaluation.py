"""An evaluation in a terminal: one table of the behavior, one of the damage, what to make of it."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelsurgery.report.counting import uncounted
from modelsurgery.report.terminal import change_shown, interval, p_value

GROUPS_SHOWN = 6
VERDICTS = {
    "less": "less",
    "more": "MORE",
    "no detectable change": "can't be told",
}


def print_evaluation(results: dict[str, Any], console: Console) -> None:
    """Print an evaluation, from the content of its `results.json`."""
    behavior = results["behavior"]
    edits = ", ".join(results["edits"]) or "no edit"
    console.print(
        Text(
            f"{behavior['name']} ({behavior['title']}), model {results['model']['name']}, {edits}",
            style="bold",
        )
    )
    console.print(_behavior_table(results))
    for one in results["sets"]:
        for name, groups in one["by"].items():
            _print_groups(one["name"], name, groups, console)
    console.print()
    console.print(_damage_table(results))
    for line in _footnotes(results):
        console.print(Text(line, style="dim"))


def _behavior_table(results: dict[str, Any]) -> Table:
    table = _table("on held-out prompts")
    for one in results["sets"]:
        table.add_row(f"{one['name']} ({one['base']['prompts']})", *_compared(one))
        for judge, other in one["other_judges"].items():
            table.add_row(f"  {judge} ({other['base']['prompts']})", *_compared(other))
        for published in one["published"]:
            row = (f"{published['base']:.1f}%", f"{published['edited']:.1f}%")
            table.add_row(f"  published, {published['model']}", *row, style="dim")
    return table


def _table(first: str) -> Table:
    """An empty table of comparisons; its columns are never broken, narrow as a terminal may be."""
    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in ("base", "edited", "change", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("change is", no_wrap=True)
    return table


def _compared(one: dict[str, Any]) -> tuple[str, ...]:
    if one["edited"] is None:
        return (interval(one["base"]), "", "", "", "")
    change = one["change"]
    return (
        interval(one["base"]),
        interval(one["edited"]),
        change_shown(one),
        p_value(change["adjusted_p_value"]),
        VERDICTS[change["verdict"]],
    )


def _print_groups(where: str, name: str, groups: dict[str, Any], console: Console) -> None:
    """The groups with the largest rates of the base model; all of them are in results.json."""
    console.print()
    table = _table(f"{where} by {name}")
    ordered = sorted(groups.items(), key=lambda item: (-item[1]["base"]["rate"], item[0]))
    for group, one in ordered[:GROUPS_SHOWN]:
        table.add_row(f"{group} ({one['base']['prompts']})", *_compared(one))
    console.print(table)
    if len(groups) > GROUPS_SHOWN:
        more = len(groups) - GROUPS_SHOWN
        console.print(Text(f"and {more} more in results.json", style="dim"))


def _damage_table(results: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("what it may have broken", no_wrap=True)
    for name in ("base", "edited", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in results["sets"]:
        _add_quality(table, one)
    _add_neutral(table, results["damage"]["neutral_text"])
    if results["damage"]["facts"]:
        base, edited = results["damage"]["facts"]
        row = ["facts right", interval(base)]
        if results["edits"]:
            points = 100 * (edited["rate"] - base["rate"])
            row += [interval(edited), f"{points:+.1f} points"]
        table.add_row(*row)
    for name, task in results["damage"]["tasks"].items():
        for row in _task_rows(name, task):
            table.add_row(*row)
    return table


def _add_quality(table: Table, one: dict[str, Any]) -> None:
    quality = one["quality"]
    base = quality.get("base", quality)
    edited = quality.get("edited")
    for key, label in (
        ("repetition", "repeated 4-grams"),
        ("unfinished", "unfinished"),
        ("failed", "empty"),
    ):
        before = base[key]
        row = [f"{one['name']}: {label}", f"{before:.1%}"]
        if edited is not None:
            row += [f"{edited[key]:.1%}", f"{100 * (edited[key] - before):+.1f} points"]
        table.add_row(*row)
    row = [f"{one['name']}: tokens", f"{base['mean_tokens']:.1f}"]
    if edited is not None:
        change = edited["mean_tokens"] - base["mean_tokens"]
        row += [f"{edited['mean_tokens']:.1f}", f"{change:+.1f}"]
    table.add_row(*row)


def _add_neutral(table: Table, neutral: dict[str, Any] | None) -> None:
    if neutral is None:
        return
    row = ["perplexity, neutral text", f"{neutral['base_perplexity']:.2f}"]
    if neutral["edited_perplexity"] is not None:
        row += [f"{neutral['edited_perplexity']:.2f}", f"{neutral['rise']:+.1%}"]
    table.add_row(*row)
    if neutral["divergence"] is not None:
        table.add_row("divergence", "0", f"{neutral['divergence']:.4f}", "nats a token")


def _task_rows(name: str, task: dict[str, Any]) -> list[list[str]]:
    if "perplexity" in task.get("metric", ""):
        base, edited = task["base"], task["edited"]
        row = [f"{name} (perplexity)", f"{base:.2f}"]
        return [row if edited is None else [*row, f"{edited:.2f}", f"{edited / base - 1:+.1%}"]]
    base, edited = task["base"], task["edited"]
    row = [f"{name} ({task['metric']}, {task['shots']}-shot)", interval(base)]
    if edited is not None:
        row += [interval(edited), f"{100 * (edited['rate'] - base['rate']):+.1f} points"]
    return [row]


def _footnotes(results: dict[str, Any]) -> list[str]:
    lines = [
        "name (prompts); rate (95 % interval); p of a paired sign test over prompts, corrected for "
        "all sets or groups"
    ]
    lines += [f"judge {one['name']}: {one['note']}" for one in results["judges"]]
    for one in results["sets"]:
        for judge, other in one["other_judges"].items():
            agreed = other["agreement"]
            lines.append(
                f"{one['name']}: {results['judges'][0]['name']} and {judge} agree on "
                f"{agreed['share']:.0%} of {agreed['items']} continuations, kappa "
                f"{agreed['kappa']:.2f}"
            )
        lines += [f"{one['name']}: {told}" for told in uncounted(one["verdicts"])]
    neutral = results["damage"]["neutral_text"]
    if neutral:
        lines.append(f"neutral text: {neutral['text']}, {neutral['tokens']} tokens")
    return lines
