"""What charts are drawn with: axes, and lines, dots and words as SVG.

Text is escaped here, and loses control characters and changes of writing direction.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from modelsurgery.report.untrusted import in_one_line

WIDTH = 680
LEFT, RIGHT = 210, 24
LONGEST = 32  # letters of a label that fit beside a chart


@dataclass(frozen=True)
class Axis:
    """A linear scale from values to pixels."""

    low: float
    high: float
    start: float  # pixel of `low`
    end: float  # pixel of `high`

    def __call__(self, value: float) -> float:
        """Pixel of a value; values outside stop at the ends."""
        span = self.high - self.low or 1.0
        share = min(max((value - self.low) / span, 0.0), 1.0)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values across the axis."""
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        raw = span / count
        power = 10 ** math.floor(math.log10(raw))
        step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda one: abs(one - raw))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(number * step, 10) for number in range(first, last + 1)]


def tick_per_cent(tick: float) -> str:
    """A share at an axis; steps of 2.5 % are not rounded."""
    return f"{100 * tick:g}%"


def svg(height: float, title: str, description: str, parts: Sequence[str]) -> Markup:
    """A whole chart around its parts, which are markup already."""
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img">'
        f"{told('title', title)}{told('desc', description)}{''.join(parts)}</svg>"
    )


def vertical_grid(axis: Axis, bottom: float, *, per_cent_ticks: bool) -> list[str]:
    """Lines across a chart, with their values below it."""
    parts = []
    for tick in axis.ticks(6):
        parts.append(line(axis(tick), 2, axis(tick), bottom, "grid"))
        said = tick_per_cent(tick) if per_cent_ticks else f"{tick:g}"
        parts.append(text(axis(tick), bottom + 18, said, "middle", "tick"))
    return parts


def horizontal(start: float, y: float, said: str, end: float = WIDTH - RIGHT) -> str:
    """A line across a chart, with its value on the left."""
    return line(start, y, end, y, "grid") + text(start - 8, y + 4, said, "end", "tick")


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="{kind}"/>'


def told(tag: str, said: str) -> str:
    """Words for those who cannot see, or who hover."""
    return f"<{tag}>{escape(in_one_line(said))}</{tag}>"


def polyline(points: Sequence[tuple[float, float]], kind: str) -> str:
    """A line through points."""
    return f'<polyline points="{path(points)}" class="curve {kind}"/>'


def path(points: Sequence[tuple[float, float]]) -> str:
    """Points as an attribute of SVG has them."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def bar(start: float, end: float, y: float, kind: str, said: str) -> str:
    """A horizontal bar that tells its value on hovering."""
    return (
        f'<rect x="{start}" y="{y}" width="{max(end - start, 1):.1f}" height="15" rx="2" '
        f'class="{kind}">{told("title", said)}</rect>'
    )


def dot(x: float, y: float, kind: str, radius: float, said: str) -> str:
    """A dot that tells its value on hovering."""
    return (
        f'<circle cx="{x}" cy="{y}" r="{radius}" class="dot {kind}">{told("title", said)}</circle>'
    )


def text(x: float, y: float, said: str, anchor: str, kind: str = "label") -> str:
    """Words in a chart, cut where they would run into it."""
    plain = in_one_line(said)
    # Labels end where the chart begins; everything else is our own and fits.
    shown = plain if anchor != "end" or len(plain) <= LONGEST else plain[: LONGEST - 1] + "…"
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">'
        f"{escape(shown)}</text>"
    )
