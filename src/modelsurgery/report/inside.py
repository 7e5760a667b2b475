"""What an edit does inside a model, in a terminal: rows, tokens, neurons, other edits beside it.

Tokens that may offend are masked unless asked for. All text of a model's tokenizer is shown as
text, never as markup.
"""

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelsurgery.report.masking import shown_token
from modelsurgery.report.untrusted import in_one_line

BAR = 24  # letters of the longest bar
BLOCKS = " ▁▂▃▄▅▆▇█"
MOST_NEURONS = 6
MOST_NEIGHBORS = 6
HISTOGRAMS = {
    "all": "all gate rows",
    "chosen": "the chosen rows",
    "random": "the same number of random rows",
}


def print_inside(inside: dict[str, Any], console: Console, *, show_offensive: bool = False) -> None:
    """Print what is to be seen of an edit, from `inside` as in `results.json`."""
    _section(console, "rows by layer", _layers(inside["rows_by_layer"]))
    _section(console, "cosines with the direction", _cosines(inside["cosines"]))
    if inside["activations"]:
        _section(
            console, "share of chosen neurons active per token", _activations(inside["activations"])
        )
    for part, name, table_of in TEXT_PARTS:
        if inside.get(part):
            _section(console, name, table_of(inside[part]))
    if inside["tokens"]:
        ends = {"direction": inside["tokens"]["direction"]}
        table = _ends(ends, show_offensive)
        _section(console, "the direction in tokens", table, inside["tokens"]["layer_note"])
    for number, neuron in enumerate(inside["neurons"][:MOST_NEURONS]):
        title = "the neurons that point most away from it" if number == 0 else None
        _section(console, title, _neuron(neuron, show_offensive), over=_named(neuron))
    more = len(inside["neurons"]) - MOST_NEURONS
    if more > 0:
        console.print(Text(f"{more} more with --json", style="dim"))
    for line in missing_lines(inside["missing"]):
        console.print(Text(line, style="dim"))


def print_probe(inside: dict[str, Any], console: Console, *, show_offensive: bool = False) -> None:
    """Print what a probe's directions say."""
    table = _ends(inside["directions"], show_offensive)
    _section(console, "directions in tokens", table, inside["layer_note"])
    pairs = [f"{pair} {cosine:+.2f}" for pair, cosine in inside["cosines"].items()]
    console.print(Text(f"cosines  {', '.join(pairs)}"))


def print_probes(
    others: list[dict[str, Any]], similarity: list[dict[str, Any]], console: Console
) -> None:
    """Print how alike probes are, and their cosines with mean hidden states of texts."""
    if others:
        table = _table("cosine")
        table.add_column("")
        for one in others:
            table.add_row(f"{one['cosine']:+.3f}", in_one_line(one["probe"]))
        _section(console, "cosines with other probes", table)
    if similarity:
        table = _table("cosine")
        table.add_column("texts")
        table.add_column("probe")
        for one in similarity:
            table.add_row(f"{one['cosine']:+.3f}", one["texts"], in_one_line(one["probe"]))
        _section(console, "cosines of probes with mean hidden states", table)


def print_comparisons(comparisons: list[dict[str, Any]], console: Console) -> None:
    """Print what an edit has to do with others."""
    for one in comparisons:
        console.print()
        console.print(Text(f"with {in_one_line(one['edit'])}: {one['verdict']}", style="bold"))
        console.print(
            Text(
                f"cosine of directions {one['cosine']:+.2f}, {one['shared_rows']:,} rows shared "
                f"of {one['rows'][0]:,} and {one['rows'][1]:,}; it changes the effect of this "
                f"edit by {one['changed']:+.1%}, and this edit changes its effect by "
                f"{one['other_changed']:+.1%}"
            )
        )
        if one["nearest"]:
            console.print(_neighbors(one["nearest"][:MOST_NEIGHBORS]))


def missing_lines(missing: dict[str, str]) -> list[str]:
    """What could not be had, and why: one line for each reason."""
    names: dict[str, list[str]] = {}
    for name, why in missing.items():
        names.setdefault(in_one_line(why), []).append(name.replace("_", " "))
    return [f"{', '.join(some)}: {why}" for why, some in names.items()]


def _section(
    console: Console,
    title: str | None,
    table: Table,
    note: str | None = None,
    *,
    over: str | None = None,
) -> None:
    if title is not None:
        console.print()
        console.print(Text(title, style="bold"))
    if over is not None:
        console.print(Text(over))
    console.print(table)
    if note is not None:
        console.print(Text(note, style="dim"))


def _layers(layers: list[dict[str, int]]) -> Table:
    table = _table("layer", "chosen", "of")
    table.add_column("")
    most = max(1, *(one["chosen"] for one in layers))
    for one in layers:
        bar = "█" * round(BAR * one["chosen"] / most)
        table.add_row(str(one["layer"]), f"{one['chosen']:,}", f"{one['rows']:,}", Text(bar))
    return table


def _cosines(cosines: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    low, high = cosines["edges"][0], cosines["edges"][-1]
    for key, label in HISTOGRAMS.items():
        counts = cosines[key]
        table.add_row(label, f"{low:+.2f}", Text(_sparkline(counts)), f"{high:+.2f}")
    return table


def _sparkline(counts: list[int]) -> str:
    most = max(1, *counts)
    # Rounded up: a bin with one row must not look empty.
    return "".join(BLOCKS[-(-count * (len(BLOCKS) - 1) // most)] for count in counts)


def _activations(activations: list[dict[str, Any]]) -> Table:
    table = _table("base", "edited", "tokens")
    table.add_column("")
    for one in activations:
        shares = f"{one['base']:.1%}", f"{one['edited']:.1%}"
        table.add_row(*shares, f"{one['tokens']:,}", one["texts"])
    return table


def _similarity(similar: list[dict[str, Any]]) -> Table:
    table = _table("cosine")
    table.add_column("")
    for one in similar:
        table.add_row(f"{one['cosine']:+.3f}", one["texts"])
    return table


def _probe_loss(losses: list[dict[str, Any]]) -> Table:
    table = _table("base", "edited")
    table.add_column("")
    for one in losses:
        table.add_row(f"{one['base']:.3f}", f"{one['edited']:.3f}", one["texts"])
    return table


def _loss_rise(rises: list[dict[str, Any]]) -> Table:
    table = _table("strength", "predicted", "measured")
    table.add_column("")
    for one in rises:
        for point in one["points"]:
            rose = f"{point['predicted']:+.3f}", f"{point['measured']:+.3f}"
            table.add_row(f"{point['share']:.0%}", *rose, one["texts"])
    return table


# Parts that need texts, in the order of the report.
TEXT_PARTS: tuple[tuple[str, str, Callable[[list[dict[str, Any]]], Table]], ...] = (
    ("similarity", "cosine of the direction with mean hidden states", _similarity),
    ("probe_loss", "loss of the probe, nats", _probe_loss),
    ("loss_rise", "rise of the model's loss, nats per token: by its gradient, and measured",
     _loss_rise),
)  # fmt: skip


def _named(neuron: dict[str, Any]) -> str:
    expert = "" if neuron["expert"] is None else f" {neuron['expert']}"
    where = "" if neuron["branch"] == "mlp" else f" of {neuron['branch']}{expert}"
    output = neuron["mean_output"]
    mean = "" if output is None else f", gives {output['base']:+.2f} → {output['edited']:+.2f}"
    return (
        f"layer {neuron['layer']}{where}, row {neuron['row']}, cosine {neuron['cosine']:+.2f}{mean}"
    )


def _neuron(neuron: dict[str, Any], show_offensive: bool) -> Table:
    parts = {"reads": "gate_reads", "edited": "gate_reads_edited", "writes": "writes"}
    known = {label: neuron[key] for label, key in parts.items() if neuron[key] is not None}
    return _ends(known, show_offensive, indent="  ")


def _ends(
    parts: dict[str, dict[str, list[list[Any]]]], show_offensive: bool, *, indent: str = ""
) -> Table:
    """Two lines a part: the tokens that it goes toward, and those that it goes away from."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for label, ends in parts.items():
        for place, (end, sign) in enumerate((("toward", "+"), ("away", "−"))):
            tokens = [shown_token(one, show_offensive=show_offensive) for one in ends[end]]
            name = f"{indent}{label}" if place == 0 else ""
            table.add_row(
                name,
                sign,
                Text(in_one_line("  ".join(tokens)), style="green" if place == 0 else ""),
            )
    return table


def _neighbors(nearest: list[dict[str, Any]]) -> Table:
    table = _table("row", "nearest of the other", "cosine")
    table.add_column("")
    for one in nearest:
        table.add_row(
            f"{one['layer']}.{one['row']}",
            f"{one['other_layer']}.{one['other_row']}",
            f"{one['cosine']:+.2f}",
            "edited by both" if one["is_shared"] else "",
        )
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table
