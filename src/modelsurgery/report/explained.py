"""What a rule expected of an edit, in words and numbers: terminal and page show the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelsurgery.report.untrusted import in_one_line

BAR = 24  # letters of the longest bar
MOST_ROWS = 12
COLUMNS = ("layer, row", "coefficient", "gain", "price", "gain / price", "share of gain")
UNITS = (
    "gain: change of the difference between the losses on texts that show the behavior and on "
    "their opposites, to first order; price: divergence on neutral text; both in nats per token"
)


@dataclass(frozen=True)
class Compared:
    """A number of the whole edit, as the rule expected it and as it was measured."""

    name: str
    predicted: float  # nats per token
    measured: float | None  # the same on validation texts; None where that was not measured


def wanted(explained: Mapping[str, Any]) -> float:
    """1 or -1: what turns gains to the direction that the edit was made for."""
    return -1.0 if explained["predicted"]["gain"] < 0 else 1.0


def compared(explained: Mapping[str, Any]) -> tuple[Compared, ...]:
    """Gain and divergence of the whole edit."""
    predicted, measured, sign = explained["predicted"], explained["measured"], wanted(explained)
    return tuple(
        Compared(
            name,
            factor * predicted[key],
            None if measured is None else factor * measured[key],
        )
        for name, key, factor in (("gain", "gain", sign), ("divergence", "divergence", 1.0))
    )


def row_lines(explained: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The rows that were expected to give most, in the order of `COLUMNS`."""
    sign = wanted(explained)
    return [
        (
            f"{row['layer']}{_place(row)}, {row['row']}",
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
    console.print(Text("predicted by the rule", style="bold"))
    for one in compared(explained):
        said = "not measured" if one.measured is None else f"measured {one.measured:.2g}"
        console.print(Text(f"{one.name:<10}  predicted {one.predicted:.2g}, {said}"))
    for name, gain in ((explained["measured"] or {}).get("by_behavior") or {}).items():
        told = f"  {in_one_line(name)}: gain {gain:.2g} in the requested direction"
        console.print(Text(told))
    console.print(Text(UNITS, style="dim"))
    console.print()
    console.print(Text("predicted gain by layer", style="bold"))
    console.print(_layers(explained["by_layer"], wanted(explained)))
    console.print()
    console.print(Text("the rows with the largest predicted gain", style="bold"))
    table = _table(*COLUMNS)
    for line in row_lines(explained):
        table.add_row(*(in_one_line(one) for one in line))
    console.print(table)


def _layers(layers: Sequence[Mapping[str, Any]], sign: float) -> Table:
    table = _table("layer", "rows", "gain", "price", "share of gain")
    table.add_column("")
    most = max(1e-12, *(one["share"] for one in layers))
    for one in layers:
        bar = "█" * round(BAR * max(0.0, one["share"]) / most)
        numbers = f"{sign * one['gain']:.2g}", f"{one['divergence']:.2g}", f"{one['share']:.1%}"
        table.add_row(str(one["layer"]), f"{one['rows']:,}", *numbers, Text(bar))
    return table


def _place(row: Mapping[str, Any]) -> str:
    """Where in its layer a row is, unless there is one MLP alone."""
    expert = "" if row["expert"] is None else f" {row['expert']}"
    return "" if row["branch"] == "mlp" else f" {row['branch']}{expert}"


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table
