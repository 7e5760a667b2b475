"""What a rule expected of an edit, in words and numbers: terminal and page show the same."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from modelsurgery.report.lines import BAR, columns, print_line, print_section
from modelsurgery.report.untrusted import in_one_line

MOST_ROWS = 12
COLUMNS = ("layer, row", "coefficient", "gain", "price", "gain / price", "share of gain")
UNITS = (
    "gain: change of the difference between the losses on texts that show the behavior and on "
    "their opposites, to first order; price: divergence on neutral text; both in nats per token"
)


def wanted(explained: Mapping[str, Any]) -> float:
    """1 or -1: what turns gains to the direction that the edit was made for."""
    return -1.0 if explained["predicted"]["gain"] < 0 else 1.0


def compared(explained: Mapping[str, Any]) -> list[tuple[str, float, float | None]]:
    """Gain and divergence of the whole edit, nats per token, as predicted and as measured.

    What was measured is of validation texts; None where that was not done.
    """
    predicted, measured = explained["predicted"], explained["measured"]
    return [
        (key, factor * predicted[key], None if measured is None else factor * measured[key])
        for key, factor in (("gain", wanted(explained)), ("divergence", 1.0))
    ]


def row_lines(explained: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The rows that were expected to give most, in the order of `COLUMNS`."""
    sign = wanted(explained)
    return [
        (
            f"{row['layer']}{place_of(row)}, {row['row']}",
            ", ".join(f"{one:+.3g}" for one in row["coefficients"]),
            f"{sign * row['gain']:.2g}",
            f"{row['divergence']:.2g}",
            f"{sign * row['gain'] / row['divergence']:,.0f}" if row["divergence"] else "",
            f"{row['share']:.1%}",
        )
        for row in explained["rows"][:MOST_ROWS]
    ]


def print_explanation(explained: Mapping[str, Any], console: Console) -> None:
    """Print what a rule expected, layer by layer and of the best rows."""
    console.print()
    print_line("predicted by the rule", console, "bold")
    for name, predicted, measured in compared(explained):
        said = "not measured" if measured is None else f"measured {measured:.2g}"
        print_line(f"{name:<10}  predicted {predicted:.2g}, {said}", console)
    for name, gain in ((explained["measured"] or {}).get("by_behavior") or {}).items():
        told = f"  {in_one_line(name)}: gain {gain:.2g} in the requested direction"
        print_line(told, console)
    print_line(UNITS, console, "dim")
    print_section("predicted gain by layer", _layers(explained), console)
    lines = (map(in_one_line, line) for line in row_lines(explained))
    print_section(
        "the rows with the largest predicted gain", columns(COLUMNS, lines, words=0), console
    )


def _layers(explained: Mapping[str, Any]) -> Table:
    layers, sign = explained["by_layer"], wanted(explained)
    most = max(1e-12, *(one["share"] for one in layers))
    lines = (
        (
            str(one["layer"]),
            f"{one['rows']:,}",
            f"{sign * one['gain']:.2g}",
            f"{one['divergence']:.2g}",
            f"{one['share']:.1%}",
            "█" * round(BAR * max(0.0, one["share"]) / most),
        )
        for one in layers
    )
    return columns(("layer", "rows", "gain", "price", "share of gain", ""), lines)


def place_of(row: Mapping[str, Any]) -> str:
    """Where in its layer a row is, unless there is one MLP alone."""
    expert = "" if row["expert"] is None else f" {row['expert']}"
    return "" if row["branch"] == "mlp" else f" {row['branch']}{expert}"
