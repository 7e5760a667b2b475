"""The dose-response curve in a terminal: what the chosen rows do at other strengths."""

from rich.console import Console
from rich.text import Text

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
        console.print(Text(line, style=style))


def _damage(name: str, point: Point) -> str:
    """What a point takes of a limit."""
    if name == "perplexity":
        return f"{point.perplexity_rise.value:+.1%}"
    if name == "divergence":
        return f"{_divergence(point):.4f}"
    if name == "uncalled_for":
        return f"{0.0 if point.uncalled_for is None else point.uncalled_for.value:+.1f} pt"
    return f"{0 - point.capability_drop.value:+.1f} pt"


def _bar(rate: Rate | None) -> str:
    if rate is None:
        return "nothing to judge"
    full = "█" * round(BAR * rate.rate)
    shown = f"{100 * rate.low:.0f}-{100 * rate.high:.0f}"
    return f"{full:<{BAR}} {rate.rate:>5.1%} ({shown})"


def _limit(name: str, one: Limit) -> str:
    if one.limit is None:
        return ""
    shown = {"perplexity": f"{one.limit:+.1%}", "divergence": f"{one.limit:.4f}"}
    shown["uncalled_for"] = f"+{one.limit:.1f} pt"
    return shown.get(name, f"-{one.limit:.1f} pt")


def _divergence(point: Point) -> float:
    """The one that counts: on neutral text or on the model's own answers."""
    own = 0.0 if point.own_divergence is None else point.own_divergence.value
    return max(point.divergence.value, own)
