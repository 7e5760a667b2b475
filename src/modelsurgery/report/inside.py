"""What an edit does inside a model, in a terminal: rows, tokens, neurons, other edits beside it.

Tokens that may offend are masked unless asked for. All text of a model's tokenizer is shown as
text, never as markup.
"""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelsurgery.report.explained import place_of
from modelsurgery.report.lines import BAR, columns, print_line, print_lines, print_section
from modelsurgery.report.masking import shown_token
from modelsurgery.report.untrusted import in_one_line

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
    print_section("rows by layer", _layers(inside["rows_by_layer"]), console)
    print_section("cosines with the direction", _cosines(inside["cosines"]), console)
    for title, heads, lines in _of_texts(inside):
        if lines:
            print_section(title, columns((*heads, ""), lines), console)
    if inside["tokens"]:
        table = _ends({"direction": inside["tokens"]["direction"]}, show_offensive)
        note = inside["tokens"]["layer_note"]
        print_section("the direction in tokens", table, console, note)
    neurons = inside["neurons"]
    if neurons:
        console.print()
        print_line("the neurons that point most away from it", console, "bold")
    for neuron in neurons[:MOST_NEURONS]:
        print_line(_named(neuron), console)
        console.print(_neuron(neuron, show_offensive))
    if len(neurons) > MOST_NEURONS:
        print_line(f"{len(neurons) - MOST_NEURONS} more with --json", console, "dim")
    print_lines(missing_lines(inside["missing"]), console, "dim")


def print_probe(inside: dict[str, Any], console: Console, *, show_offensive: bool = False) -> None:
    """Print what a probe's directions say."""
    table = _ends(inside["directions"], show_offensive)
    print_section("directions in tokens", table, console, inside["layer_note"])
    pairs = [f"{pair} {cosine:+.2f}" for pair, cosine in inside["cosines"].items()]
    print_line(f"cosines  {', '.join(pairs)}", console)


def print_probes(
    others: list[dict[str, Any]], similarity: list[dict[str, Any]], console: Console
) -> None:
    """Print how alike probes are, and their cosines with mean hidden states of texts."""
    if others:
        lines = [(f"{one['cosine']:+.3f}", in_one_line(one["probe"])) for one in others]
        print_section("cosines with other probes", columns(("cosine", ""), lines), console)
    if similarity:
        title = "cosines of probes with mean hidden states"
        texts = [
            (f"{one['cosine']:+.3f}", one["texts"], in_one_line(one["probe"])) for one in similarity
        ]
        print_section(title, columns(("cosine", "texts", "probe"), texts, words=2), console)


def print_comparisons(comparisons: list[dict[str, Any]], console: Console) -> None:
    """Print what an edit has to do with others."""
    for one in comparisons:
        console.print()
        print_line(f"with {in_one_line(one['edit'])}: {one['verdict']}", console, "bold")
        told = (
            f"cosine of directions {one['cosine']:+.2f}, {one['shared_rows']:,} rows shared "
            f"of {one['rows'][0]:,} and {one['rows'][1]:,}; it changes the effect of this "
            f"edit by {one['changed']:+.1%}, and this edit changes its effect by "
            f"{one['other_changed']:+.1%}"
        )
        print_line(told, console)
        if one["nearest"]:
            console.print(_neighbors(one["nearest"][:MOST_NEIGHBORS]))


def missing_lines(missing: dict[str, str]) -> list[str]:
    """What could not be had, and why: one line for each reason."""
    names: dict[str, list[str]] = {}
    for name, why in missing.items():
        names.setdefault(in_one_line(why), []).append(name.replace("_", " "))
    return [f"{', '.join(some)}: {why}" for why, some in names.items()]


def _layers(layers: list[dict[str, int]]) -> Table:
    most = max(1, *(one["chosen"] for one in layers))
    lines = (
        (
            str(one["layer"]),
            f"{one['chosen']:,}",
            f"{one['rows']:,}",
            "█" * round(BAR * one["chosen"] / most),
        )
        for one in layers
    )
    return columns(("layer", "chosen", "of", ""), lines)


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


def _of_texts(
    inside: dict[str, Any],
) -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Parts that need texts: title, heads and lines, of which the last cell says the texts."""
    yield (
        "share of chosen neurons active per token",
        ("base", "edited", "tokens"),
        [
            (f"{one['base']:.1%}", f"{one['edited']:.1%}", f"{one['tokens']:,}", one["texts"])
            for one in inside.get("activations") or ()
        ],
    )
    yield (
        "cosine of the direction with mean hidden states",
        ("cosine",),
        [(f"{one['cosine']:+.3f}", one["texts"]) for one in inside.get("similarity") or ()],
    )
    yield (
        "loss of the probe, nats",
        ("base", "edited"),
        [
            (f"{one['base']:.3f}", f"{one['edited']:.3f}", one["texts"])
            for one in inside.get("probe_loss") or ()
        ],
    )
    rise = "rise of the model's loss, nats per token: by its gradient, and measured"
    yield (
        rise,
        ("strength", "predicted", "measured"),
        [
            (
                f"{point['share']:.0%}",
                f"{point['predicted']:+.3f}",
                f"{point['measured']:+.3f}",
                one["texts"],
            )
            for one in inside.get("loss_rise") or ()
            for point in one["points"]
        ],
    )


def _named(neuron: dict[str, Any]) -> str:
    place = place_of(neuron)
    where = f" of{place}" if place else ""
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
        for end, sign, name, style in (
            ("toward", "+", f"{indent}{label}", "green"),
            ("away", "−", "", ""),
        ):
            tokens = [shown_token(one, show_offensive=show_offensive) for one in ends[end]]
            table.add_row(name, sign, Text(in_one_line("  ".join(tokens)), style=style))
    return table


def _neighbors(nearest: list[dict[str, Any]]) -> Table:
    lines = (
        (
            f"{one['layer']}.{one['row']}",
            f"{one['other_layer']}.{one['other_row']}",
            f"{one['cosine']:+.2f}",
            "edited by both" if one["is_shared"] else "",
        )
        for one in nearest
    )
    return columns(("row", "nearest of the other", "cosine", ""), lines)
