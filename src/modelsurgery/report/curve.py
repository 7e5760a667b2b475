"""The dose-response curve in a terminal: what the chosen rows do at other strengths."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

BAR = 12  # letters of a rate of 100 %


def print_curve(results: dict[str, Any], console: Console) -> None:
    """Print the curve, with a line where the budget ends."""
    points, name = results["dose_response"], results["behavior"]["name"]
    limits = results["budget"]["limits"]
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    table.add_column("strength", justify="right", no_wrap=True)
    table.add_column(f"{name}, tuning prompts", no_wrap=True)
    names = {"uncalled_for": (results.get("uncalled_for") or {}).get("name", "uncalled-for")}
    for column in limits:
        table.add_column(names.get(column, column), justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for place, point in enumerate(points):
        if place and points[place - 1]["is_inside"] and not point["is_inside"]:
            rule = Text("╌" * BAR + " the budget ends", style="dim")
            table.add_row("", rule, *(_limit(limits, one) for one in limits))
        table.add_row(
            f"{point['strength']:.2f}",
            _bar(point["rate"]),
            f"{point['perplexity_rise']['value']:+.1%}",
            f"{_divergence(point):.4f}",
            f"{0 - point['capability_drop']['value']:+.1f} pt",
            *([f"{point['uncalled_for']['value']:+.1f} pt"] if "uncalled_for" in limits else []),
            "◂ chosen" if point["is_chosen"] else "",
        )
    console.print(table)


def _bar(rate: dict[str, float] | None) -> str:
    if rate is None:
        return "nothing to judge"
    full = "█" * round(BAR * rate["rate"])
    shown = f"{100 * rate['low']:.0f}-{100 * rate['high']:.0f}"
    return f"{full:<{BAR}} {rate['rate']:>5.1%} ({shown})"


def _limit(limits: dict[str, Any], name: str) -> str:
    limit = limits[name]["limit"]
    if limit is None:
        return ""
    shown = {"perplexity": f"{limit:+.1%}", "divergence": f"{limit:.4f}"}
    shown["uncalled_for"] = f"+{limit:.1f} pt"
    return shown.get(name, f"-{limit:.1f} pt")


def _divergence(point: dict[str, Any]) -> float:
    """The one that counts: on neutral text or on the model's own answers."""
    own = point.get("own_divergence") or {"value": 0.0}
    return float(max(point["divergence"]["value"], own["value"]))
