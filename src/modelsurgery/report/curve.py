"""The dose-response curve in a terminal: what the chosen rows do at other strengths."""

from rich.console import Console

from modelsurgery.report.lines import print_line
from modelsurgery.results import Limit, Rate, RunResults
from modelsurgery.results.printing import aligned
from modelsurgery.results.runs import Point

BAR = 12  # letters of a rate of 100 %


def print_curve(results: RunResults, console: Console) -> None:
    """Print the curve, with a line where the budget ends."""
    points, limits = results.dose_response, results.budget.limits
    other = results.uncalled_for
    names = {"uncalled_for": "uncalled-for" if other is None else other.name}
    columns = [names.get(one, one) for one in limits]
    lines = [("strength", f"{results.behavior.name}, validation prompts", *columns, "")]
    ends: list[int] = []
    for place, point in enumerate(points):
        if place and points[place - 1].is_inside and not point.is_inside:
            ends.append(len(lines))
            shown = (_limit(name, one) for name, one in limits.items())
            lines.append(("", "╌" * BAR + " the budget ends", *shown, ""))
        damage = (_damage(name, point) for name in limits)
        mark = "◂ chosen" if point.is_chosen else ""
        strength = point.strength + 0.0  # of an edit toward a behavior it can be -0.0
        lines.append((f"{strength:.2f}", _bar(point.rate), *damage, mark))
    for place, line in enumerate(aligned(lines, [1, len(lines[0]) - 1], gap=" ")):
        style = "bold" if place == 0 else "dim" if place in ends else ""
        print_line(line, console, style)


def _damage(name: str, point: Point) -> str:
    """What a point takes of a limit."""
    own, uncalled = point.own_divergence, point.uncalled_for
    values = {
        "perplexity": point.perplexity_rise.value,
        # The one that counts: on neutral text or on the model's own answers.
        "divergence": max(point.divergence.value, 0.0 if own is None else own.value),
        "uncalled_for": 0.0 if uncalled is None else uncalled.value,
        "capability": 0 - point.capability_drop.value,
    }
    return _told(name, values[name])


def _limit(name: str, one: Limit) -> str:
    if one.limit is None:
        return ""
    return _told(name, -one.limit if name == "capability" else one.limit)


def _told(name: str, value: float) -> str:
    """A number in the unit of its limit."""
    if name == "perplexity":
        return f"{value:+.1%}"
    return f"{value:.4f}" if name == "divergence" else f"{value:+.1f} pt"


def _bar(rate: Rate | None) -> str:
    if rate is None:
        return "nothing to judge"
    full = "█" * round(BAR * rate.rate)
    shown = f"{100 * rate.low:.0f}-{100 * rate.high:.0f}"
    return f"{full:<{BAR}} {rate.rate:>5.1%} ({shown})"
