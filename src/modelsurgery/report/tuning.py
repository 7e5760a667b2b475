"""What a search found, in a terminal: the survivors, the curve, and what was traded for what."""

import math
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelsurgery.report.counting import uncounted
from modelsurgery.report.curve import print_curve
from modelsurgery.report.terminal import (
    budget_notes,
    headline,
    interval,
    p_value,
    paid,
    shown_layers,
)

SHOWN = 5


def print_tuning(results: dict[str, Any], console: Console) -> None:
    """Print what a search found, from the content of its `results.json`."""
    console.print(Text(headline(results), style="bold"))
    console.print(_survivors(results))
    console.print()
    print_curve(results, console)
    console.print()
    missing = uncounted(results["behavior"]["verdicts"])
    for line in (*_notes(results), *traded(results), *missing, *budget_notes(results)):
        console.print(Text(line))
    console.print(Text(f"everything is in {results['run_directory']} ({results['seconds']:.0f} s)"))
    console.print(Text(f"to look at it: {results['run_directory']}/report.html", style="bold"))


def _survivors(results: dict[str, Any]) -> Table:
    search, name = results["search"], results["behavior"]["name"]
    trials = {trial["number"]: trial for trial in search["trials"]}
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for column in ("trial", name, "nats", "perplexity", "rows", "strength"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("direction, layers")
    base = search["base_rate"]
    table.add_row("base", "" if base is None else f"{base:.1%}")
    for one in search["survivors"][:SHOWN]:
        trial = trials[one["trial"]]
        rows = trial["rows"]
        where = shown_layers({"layers": trial["window"], "per_layer": trial["per_layer"]})
        table.add_row(
            str(trial["number"]),
            "" if one["rate"] is None else f"{one['rate']:.1%}",
            f"{trial['selectivity']:.3f}",
            f"{math.expm1(trial['effect']['clean']):+.1%}",
            f"{rows:.2%}" if isinstance(rows, float) else str(rows),
            f"{trial['strength']:.2f}",
            f"{trial['rule']} {trial['probe_layer']}, {where}",
        )
    return table


def _notes(results: dict[str, Any]) -> list[str]:
    search = results["search"]
    lines = [
        f"tried   {len(search['trials'])} edits on texts (and {search['broken']} that broke the "
        f"model), {len(search['survivors'])} continued prompts; the rest of the front is in "
        "results.json; nats: rise of the loss on the behavior less that on its opposite"
    ]
    if search["rank_correlation"] is not None:
        lines.append(
            f"screen  selectivity ranked the survivors as the judge did with Spearman's rho "
            f"{search['rank_correlation']:+.2f}"
        )
    return lines


def traded(results: dict[str, Any]) -> list[str]:
    """What was had for what on held-out data, and what binds."""
    behavior, edit = results["behavior"], results["edit"]
    limits = results["budget"]["limits"]
    prices = [paid(name, one) for name, one in limits.items() if one["limit"] is not None]
    lines = [
        f"traded  {edit['rows']} of {edit['rows_found']} rows, strength {edit['strength']:.3g}: "
        f"{behavior['name']} goes from {interval(behavior['base'])} to "
        f"{interval(behavior['edited'])} of held-out prompts, "
        f"p {p_value(behavior['change']['p_value'])}, for {', '.join(prices)}"
    ]
    points = results["dose_response"]
    chosen = next((place for place, one in enumerate(points) if one["is_chosen"]), None)
    if chosen is not None and points[chosen]["used"]:
        used = points[chosen]["used"]
        binding = max(used, key=lambda name: used[name])
        more = points[chosen + 1] if chosen + 1 < len(points) else None
        line = f"binds   {binding}: {used[binding]:.0%} of its budget is used on tuning texts"
        if more is not None and more["rate"] is not None:
            line += (
                f"; at strength {more['strength']:.3g} it would be {more['used'][binding]:.0%}, "
                f"for {more['rate']['rate']:.1%} {behavior['name']}"
            )
        lines.append(line)
    return lines
