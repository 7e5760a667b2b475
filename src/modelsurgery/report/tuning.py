"""What a search found, in a terminal: the survivors, the curve, and what was traded for what."""

import math

from rich.console import Console

from modelsurgery.report.curve import print_curve
from modelsurgery.report.edits import shown_layers
from modelsurgery.report.lines import print_aligned, print_line, print_lines
from modelsurgery.report.terminal import headline, print_place
from modelsurgery.results import RunResults
from modelsurgery.results.notes import budget_notes, uncounted
from modelsurgery.results.runs import TrialResults
from modelsurgery.results.tables import p_value, paid, shown

SHOWN = 5


def print_tuning(results: RunResults, console: Console) -> None:
    """Print what a search found."""
    print_line(headline(results), console, "bold")
    lines = _survivors(results)
    print_aligned(lines, [len(lines[0]) - 1], console, gap=" ")
    console.print()
    print_curve(results, console)
    console.print()
    missing = uncounted(results.behavior.verdicts)
    budget = budget_notes(results.budget)
    print_lines((*_notes(results), *traded(results), *missing, *budget), console)
    print_place(results, console)


def _survivors(results: RunResults) -> list[tuple[str, ...]]:
    """Cells of the best trials, below their heads and the base model."""
    search, name = results.search, results.behavior.name
    assert search is not None
    trials = {trial.number: trial for trial in search.trials}
    base = "" if search.base_rate is None else f"{search.base_rate:.1%}"
    lines: list[tuple[str, ...]] = [
        ("trial", name, "nats", "perplexity", "rows", "strength", "direction, layers"),
        ("base", base, "", "", "", "", ""),
    ]
    for one in search.survivors[:SHOWN]:
        trial = trials[one.trial]
        lines.append(
            (
                str(trial.number),
                "" if one.rate is None else f"{one.rate:.1%}",
                f"{trial.selectivity:.3f}",
                f"{math.expm1(trial.effect['clean']):+.1%}",
                f"{trial.rows:.2%}" if isinstance(trial.rows, float) else str(trial.rows),
                f"{trial.strength:.2f}",
                _setting(trial),
            )
        )
    return lines


def _setting(trial: TrialResults) -> str:
    where = shown_layers(trial.window, trial.per_layer)
    if trial.probe_layer is not None:
        return f"{trial.rule} {trial.probe_layer}, {where}"
    return where if trial.damping is None else f"damping {trial.damping:g}, {where}"


def _notes(results: RunResults) -> list[str]:
    search = results.search
    assert search is not None
    lines = [
        f"tried   {len(search.trials)} edits on texts (and {search.broken} that broke the model), "
        f"{len(search.survivors)} of them on prompts; all are in results.json; nats: rise of the "
        "loss on texts that show the behavior, minus that on their opposites"
    ]
    if search.rank_correlation is not None:
        lines.append(
            "screen  rank correlation of selectivity and judge: Spearman's rho "
            f"{search.rank_correlation:+.2f}"
        )
    return lines


def traded(results: RunResults) -> list[str]:
    """What was had for what on held-out data, and what binds."""
    behavior, edit, limits = results.behavior, results.edit, results.budget.limits
    assert behavior.change is not None
    prices = [paid(name, one) for name, one in limits.items() if one.limit is not None]
    lines = [
        f"traded  {edit.rows} of {edit.rows_found} rows, strength {edit.strength:.3g}: "
        f"{behavior.name} goes from {shown(behavior.base)} to "
        f"{shown(behavior.edited)} of held-out prompts, "
        f"p {p_value(behavior.change.p_value)}, for {', '.join(prices)}"
    ]
    points = results.dose_response
    for point, more in zip(points, [*points[1:], None], strict=True):
        if not (point.is_chosen and point.used):
            continue
        binding, share = max(point.used.items(), key=lambda item: item[1])
        line = f"limit   {binding}: {share:.0%} of its budget is used on validation texts"
        if more is not None and more.rate is not None:
            line += (
                f"; at strength {more.strength:.3g} it would be {more.used[binding]:.0%}, "
                f"for {more.rate.rate:.1%} {behavior.name}"
            )
        lines.append(line)
    return lines
