"""What charts are drawn with: axes, and lines, dots and words as SVG.

Text is escaped here, and loses control characters and changes of writing direction.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from modelsurgery.report.untrusted import in_one_line

WIDTH = 680
LEFT, RIGHT = 210, 24
SCALE = 60  # where charts begin that have values on the left
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


def plain_ticks(axis: Axis, count: int) -> list[tuple[float, str]]:
    """Round values across an axis, in words."""
    return [(tick, f"{tick:g}") for tick in axis.ticks(count)]


def tick_per_cent(tick: float) -> str:
    """A share at an axis; steps of 2.5 % are not rounded."""
    return f"{100 * tick:g}%"


def svg(height: float, title: str, description: str, parts: Sequence[str]) -> Markup:
    """A whole chart around its parts, which are markup already."""
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img">'
        f"{told('title', title)}{told('desc', description)}{''.join(parts)}</svg>"
    )


def left_scale(
    y: Axis,
    ticks: Sequence[float],
    said: Callable[[float], str] = tick_per_cent,
    end: float = WIDTH - RIGHT,
) -> list[str]:
    """Lines across a chart, with their values on the left."""
    return [
        line(SCALE, y(tick), end, y(tick), "grid")
        + text(SCALE - 8, y(tick) + 4, said(tick), "end", "tick")
        for tick in ticks
    ]


def bottom_scale(
    x: Axis, bottom: float, ticks: Iterable[tuple[float, str]], name: str
) -> list[str]:
    """Values in words below a chart, and the name of what they are of."""
    values = [text(x(tick), bottom + 18, said, "middle", "tick") for tick, said in ticks]
    return [*values, text((x.start + x.end) / 2, bottom + 38, name, "middle", "tick")]


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


def bar(start: float, end: float, y: float, height: int, kind: str, said: str) -> str:
    """A horizontal bar that tells its value on hovering."""
    return (
        f'<rect x="{start}" y="{y}" width="{max(end - start, 1):.1f}" height="{height}" rx="2" '
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
