"""The chart of the rise of the loss with the strength of an edit, as predicted and as measured."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from modelsurgery.report.html import drawing as draw
from modelsurgery.report.html.drawing import RIGHT, WIDTH
from modelsurgery.report.html.wording import signed

TOP, BOTTOM = 14, 210
COLORS = ("edited", "damage")  # of the kinds of texts, in their order
ROOM = 0.08  # above and below the lines, as a share of their range


def rise_chart(rises: Sequence[Mapping[str, Any]]) -> Markup:
    """Rise of the loss against the share of the strength, two lines a kind of texts.

    Args:
        rises: `loss_rise` of `results.json`; at most as many kinds as there are colors.
    """
    x = draw.Axis(0.0, 1.0, 60, WIDTH - RIGHT)
    values = [
        point[key] for one in rises for point in one["points"] for key in ("predicted", "measured")
    ]
    low, high = min(0.0, *values), max(0.0, *values)
    room = ROOM * (high - low) or 1e-3
    y = draw.Axis(low - room if low < 0 else 0.0, high + room, BOTTOM, TOP)
    parts = [draw.horizontal(60, y(tick), f"{tick:g}") for tick in y.ticks(5)]
    if low < 0:
        parts.append(draw.line(60, y(0.0), WIDTH - RIGHT, y(0.0), "axis"))
    shares = [0.0, *(point["share"] for point in rises[0]["points"])]
    parts += [
        draw.text(x(share), BOTTOM + 18, f"{100 * share:.0f}%", "middle", "tick")
        for share in shares
    ]
    parts.append(
        draw.text((60 + WIDTH - RIGHT) / 2, BOTTOM + 38, "share of the strength", "middle", "tick")
    )
    told = []
    for one, color in zip(rises, COLORS, strict=False):
        for key, kind in (("predicted", f"{color} expected"), ("measured", color)):
            line = [(x(point["share"]), y(point[key])) for point in one["points"]]
            parts.append(draw.polyline([(x(0.0), y(0.0)), *line], kind))
        for point in one["points"]:
            said = (
                f"{one['texts']} at {100 * point['share']:.0f}% of the strength: predicted "
                f"{signed(point['predicted'], 3)}, measured {signed(point['measured'], 3)} nats"
            )
            told.append(said)
            parts.append(draw.dot(x(point["share"]), y(point["measured"]), color, 4, said))
    return draw.svg(BOTTOM + 46, "Rise of the loss by strength", "; ".join(told), parts)
