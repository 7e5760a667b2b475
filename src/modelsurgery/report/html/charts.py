"""Charts as inline SVG, from plain values.

Each chart is a pure function; colors are classes (`base`, `edited`, …) that the style sheet gives a
value for light, dark and print. Every chart has a title and a description in words for those who
cannot see it; single points tell their value on hovering.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from modelsurgery.report.html import drawing as draw
from modelsurgery.report.html.drawing import LEFT, RIGHT, SCALE, WIDTH
from modelsurgery.report.html.wording import capitalized, per_cent, signed
from modelsurgery.results import Compared, Rate
from modelsurgery.results.runs import Point

ROW = 34
RISE_COLORS = ("edited", "damage")  # of the kinds of texts, in their order
RISE_ROOM = 0.08  # above and below the lines, as a share of their range


def rates_chart(rows: Sequence[tuple[str, Compared]]) -> Markup:
    """Base and edited rates with their intervals, one row for each label."""
    rates = [rate for _, one in rows for rate in (one.base, one.edited) if rate is not None]
    highest = max((rate.high for rate in rates), default=1.0)
    axis = draw.Axis(0.0, min(1.0, max(0.1, 1.08 * highest)), LEFT, WIDTH - RIGHT)
    height = ROW * len(rows) + 34
    parts, told = [], []
    for tick in axis.ticks(6):
        said = draw.tick_per_cent(tick)
        parts.append(draw.line(axis(tick), 2, axis(tick), height - 26, "grid"))
        parts.append(draw.text(axis(tick), height - 8, said, "middle", "tick"))
    for number, (label, one) in enumerate(rows):
        y, base, edited = ROW * number + ROW / 2 + 4, one.base, one.edited
        parts.append(draw.text(LEFT - 10, y + 4, label, "end"))
        told.append(f"{label}: base {per_cent(base.rate)}")
        if edited is not None:
            told[-1] += f", edited {per_cent(edited.rate)}"
            parts.append(draw.line(axis(base.rate), y, axis(edited.rate), y, "joint"))
            parts.append(_interval(axis, edited, y + 5, "edited", f"{label}, edited"))
        parts.append(_interval(axis, base, y - 5 if edited else y, "base", f"{label}, base"))
    return draw.svg(height, "Rates with 95% intervals", "; ".join(told), parts)


def curve_chart(points: Sequence[Point], name: str, uncalled: str | None = None) -> Markup:
    """The dose-response curve: rate and use of the budget against strength, weakest point first.

    With a name of prompts that do not call for the behavior, a second line is drawn: by how many
    points more of them show it.
    """
    x = draw.Axis(0.0, max(abs(point.strength) for point in points), SCALE, WIDTH - RIGHT)
    rated = [(abs(one.strength), one.rate, one) for one in points if one.rate is not None]
    others = [
        (abs(one.strength), one.uncalled_for.value / 100)
        for one in points
        if uncalled is not None and one.uncalled_for is not None
    ]
    top = max([*(rate.high for _, rate, _ in rated), *(rise for _, rise in others)] or [1.0])
    y = draw.Axis(0.0, min(1.0, 1.1 * top), 190, 14)
    use = draw.Axis(0.0, min(4.0, max(2.0, *map(_most_used, points))), 330, 238)
    parts = draw.left_scale(y, y.ticks(4)) + draw.left_scale(use, use.ticks(4))
    parts += draw.bottom_scale(x, 332, draw.plain_ticks(x, 6), "strength of the edit")
    parts.append(draw.text(SCALE, 230, "share of the damage budget used", "start", "tick"))
    parts += _budget_lines(points, x, use)
    if others:
        line = [(x(strength), y(rise)) for strength, rise in others]
        parts.append(draw.polyline(line, "uncalled"))
    parts += _rate_curve(rated, x, y)
    used = [(abs(one.strength), _most_used(one)) for one in points]
    line = [(x(strength), use(share)) for strength, share in _up_to(used, use.high)]
    parts.append(draw.polyline(line, "damage"))
    told = [
        f"strength {strength:.2f}: {per_cent(rate.rate)}, {100 * _most_used(one):.0f}% of the "
        f"budget{', chosen' if one.is_chosen else ''}"
        for strength, rate, one in rated
    ]
    if uncalled is not None:
        rises = ", ".join(f"{signed(100 * rise)} points at {at:.2f}" for at, rise in others)
        told.append(f"{uncalled}: {rises}")
    return draw.svg(378, f"Rate of {name} by strength", "; ".join(told), parts)


def _rate_curve(
    rated: Sequence[tuple[float, Rate, Point]], x: draw.Axis, y: draw.Axis
) -> list[str]:
    """Band, line and points of the rates by strength; the chosen strength is ringed."""
    band = [(x(strength), y(rate.high)) for strength, rate, _ in rated]
    band += [(x(strength), y(rate.low)) for strength, rate, _ in reversed(rated)]
    parts = [f'<polygon points="{draw.path(band)}" class="band"/>']
    line = [(x(strength), y(rate.rate)) for strength, rate, _ in rated]
    parts.append(draw.polyline(line, "edited"))
    for (across, down), (strength, rate, one) in zip(line, rated, strict=True):
        said = (
            f"strength {strength:.2f}: {per_cent(rate.rate)}, "
            f"{signed(100 * one.perplexity_rise.value)}% perplexity, "
            f"{signed(-one.capability_drop.value)} points of capability"
        )
        parts.append(draw.dot(across, down, "edited", 6 if one.is_chosen else 4, said))
        if one.is_chosen:
            parts.append(f'<circle cx="{across}" cy="{down}" r="10" class="ring"/>')
            # Below a curve that falls and above one that rises there is nothing else.
            aside = 24 if rate.rate < rated[0][1].rate else -16
            parts.append(draw.text(across - 10, down + aside, "chosen", "end", "chosen-text"))
    return parts


def _budget_lines(points: Sequence[Point], x: draw.Axis, use: draw.Axis) -> list[str]:
    """Where all of the budget is used, and the strengths beyond."""
    parts = [draw.line(SCALE, use(1.0), WIDTH - RIGHT, use(1.0), "limit")]
    end = _budget_end(points)
    if end is not None:
        at = x(end)
        parts += [
            f'<rect x="{at}" y="14" width="{WIDTH - RIGHT - at:.1f}" height="316" class="over"/>',
            draw.line(at, 14, at, 330, "limit"),
            draw.text(at + 6, 26, "over the budget", "start", "limit-text"),
        ]
    return parts


def bars_chart(rows: Sequence[tuple[str, float, str]], title: str) -> Markup:
    """Horizontal bars from zero to both sides; rows are label, value, and the value in words."""
    values = [value for _, value, _ in rows]
    low, high = min(0.0, *values), max(0.0, *values)
    if low == high:
        high = 1.0
    axis = draw.Axis(low, high, LEFT, WIDTH - RIGHT - 90)
    parts = []
    for number, (label, value, said) in enumerate(rows):
        y = 28 * number + 6
        start, end = sorted((axis(0.0), axis(value)))
        parts.append(draw.text(LEFT - 10, y + 15, label, "end"))
        parts.append(draw.bar(start, end, y, 18, "bar", f"{label}: {said}"))
        parts.append(draw.text(end + 8, y + 14, said, "start", "tick"))
    parts.append(draw.line(axis(0.0), 2, axis(0.0), 28 * len(rows) + 2, "axis"))
    told = "; ".join(f"{label}: {said}" for label, _, said in rows)
    return draw.svg(28 * len(rows) + 8, title, told, parts)


def pairs_chart(rows: Sequence[tuple[str, float, float]], title: str, unit: str = "%") -> Markup:
    """Base and edited value of each row as two bars; the unit `%` is for shares of one."""
    highest = max([*(max(base, edited) for _, base, edited in rows), 1e-9])
    axis = draw.Axis(0.0, highest, LEFT, WIDTH - RIGHT - 70)
    parts, told = [], []
    for number, (label, base, edited) in enumerate(rows):
        y = 46 * number + 8
        parts.append(draw.text(LEFT - 10, y + 19, label, "end"))
        for offset, value, kind in ((0, base, "base"), (16, edited, "edited")):
            said = per_cent(value) if unit == "%" else f"{value:.2f} {unit}"
            end = max(axis(value), LEFT + 1)
            told.append(f"{label}, {kind}: {said}")
            parts.append(draw.bar(LEFT, end, y + offset, 13, f"fill-{kind}", told[-1]))
            parts.append(draw.text(end + 8, y + offset + 11, said, "start", "tick"))
    return draw.svg(46 * len(rows) + 8, title, "; ".join(told), parts)


def explained_chart(
    layers: Sequence[tuple[str, float, str]],
    compared: Sequence[tuple[str, float, float | None]],
) -> Markup:
    """Predicted gain layer by layer; below, what was predicted beside what was measured.

    Layers are label, predicted gain, and what else to say of the layer. What is compared are name,
    predicted and measured value, each pair on a scale of its own; None was not measured.
    """
    title = "Predicted gain by layer, nats per token"
    blocks = [(title, [(label, gain, "other", said) for label, gain, said in layers])]
    for name, predicted, measured in compared:
        found = [("predicted", predicted, "other", f"{predicted:.2g}")]
        if measured is not None:
            found.append(("measured", measured, "edited", f"{measured:.2g}"))
        blocks.append((f"{capitalized(name)}, nats per token", found))
    parts, told, y = [], [], 16.0
    for heading, bars in blocks:
        values = [value for _, value, _, _ in bars]
        axis = draw.Axis(min(0.0, *values), max(1e-12, *values), LEFT, WIDTH - RIGHT - 160)
        parts.append(draw.text(LEFT, y, heading, "start", "tick"))
        for label, value, kind, said in bars:
            y += 22
            parts.append(draw.text(LEFT - 10, y, label, "end"))
            start, end = sorted((axis(0.0), axis(value)))
            parts.append(draw.bar(start, end, y - 12, 15, f"fill-{kind}", f"{label}: {said}"))
            parts.append(draw.text(end + 8, y - 1, said, "start", "tick"))
        told.append(f"{heading}: " + ", ".join(f"{label} {said}" for label, _, _, said in bars))
        y += 34
    return draw.svg(y - 16, "Predicted by the rule", "; ".join(told), parts)


def histogram_chart(
    edges: Sequence[float],
    series: Sequence[tuple[str, str, Sequence[int]]],
    title: str,
    axis_name: str,
) -> Markup:
    """Several histograms over the same n bins, each as shares of its own sum.

    Of n + 1 edges, and series of name, color class and n counts.
    """
    x = draw.Axis(edges[0], edges[-1], SCALE, WIDTH - RIGHT)
    shares = [(name, kind, _shares(counts)) for name, kind, counts in series]
    y = draw.Axis(0.0, max([*(max(some) for _, _, some in shares), 1e-9]) * 1.05, 200, 12)
    parts = draw.left_scale(y, y.ticks(4))
    parts += draw.bottom_scale(x, 200, draw.plain_ticks(x, 8), axis_name)
    told = []
    for name, kind, some in shares:
        parts.append(_steps(x, y, edges, some, kind, name))
        told.append(f"{name}: mean {_mean(edges, some):.3f}")
    return draw.svg(246, title, "; ".join(told), parts)


def panels_chart(
    panels: Sequence[tuple[str, Sequence[float], Sequence[int], Sequence[int]]],
    title: str,
    axis_name: str,
) -> Markup:
    """Histograms of base and edited model, a panel below the other, on the same axes.

    A panel is name, n + 1 edges of bins, n counts of the base and n of the edited model.
    """
    height = 92
    x = draw.Axis(0.0, max(edges[-1] for _, edges, _, _ in panels), SCALE, WIDTH - RIGHT)
    shares = [[_shares(counts) for counts in both] for _, _, *both in panels]
    highest = max([*(share for both in shares for some in both for share in some), 1e-9])
    parts, told = [], []
    for number, (name, edges, *_) in enumerate(panels):
        bottom = height * (number + 1)
        y = draw.Axis(0.0, highest, bottom, bottom - height + 30)
        parts.append(draw.text(SCALE, bottom - height + 22, name, "start"))
        parts += draw.left_scale(y, (0.0, y.ticks(2)[-1]))
        for kind, some in zip(("base", "edited"), shares[number], strict=True):
            said = f"{name}, {kind}: {_mean(edges, some):.1f} on average"
            parts.append(_steps(x, y, edges, some, kind, said))
            told.append(said)
    bottom = height * len(panels)
    parts += draw.bottom_scale(x, bottom, draw.plain_ticks(x, 8), axis_name)
    return draw.svg(bottom + 46, title, "; ".join(told), parts)


def roc_chart(
    false_positive: Sequence[float], true_positive: Sequence[float], auroc: float
) -> Markup:
    """The probe's true against its false positives on held-out texts."""
    x, y = draw.Axis(0.0, 1.0, SCALE, 300), draw.Axis(0.0, 1.0, 252, 12)
    parts = draw.left_scale(y, (0.0, 0.25, 0.5, 0.75, 1.0), end=300)
    ticks = ((0.0, "0%"), (0.5, "50%"), (1.0, "100%"))
    parts += draw.bottom_scale(x, 252, ticks, "opposites classified as the behavior")
    parts.append(draw.line(x(0), y(0), x(1), y(1), "limit"))
    line = [(x(one), y(other)) for one, other in zip(false_positive, true_positive, strict=True)]
    parts.append(draw.polyline(line, "edited"))
    parts.append(draw.text(330, 110, f"AUROC {auroc:.3f}", "start", "big"))
    parts.append(draw.text(330, 134, "1 separates every pair, 0.5 is chance", "start", "tick"))
    return draw.svg(298, "The probe on held-out texts", f"AUROC {auroc:.3f}", parts)


def rise_chart(rises: Sequence[Mapping[str, Any]]) -> Markup:
    """Rise of the loss with the share of the strength, two lines a kind of texts.

    Of `loss_rise` in `results.json`, at most as many kinds as there are `RISE_COLORS`.
    """
    bottom = 210
    x = draw.Axis(0.0, 1.0, SCALE, WIDTH - RIGHT)
    values = [
        point[key] for one in rises for point in one["points"] for key in ("predicted", "measured")
    ]
    low, high = min(0.0, *values), max(0.0, *values)
    room = RISE_ROOM * (high - low) or 1e-3
    y = draw.Axis(low - room if low < 0 else 0.0, high + room, bottom, 14)
    parts = draw.left_scale(y, y.ticks(5), "{:g}".format)
    if low < 0:
        parts.append(draw.line(SCALE, y(0.0), WIDTH - RIGHT, y(0.0), "axis"))
    shares = [0.0, *(point["share"] for point in rises[0]["points"])]
    ticks = [(share, f"{100 * share:.0f}%") for share in shares]
    parts += draw.bottom_scale(x, bottom, ticks, "share of the strength")
    told = []
    for one, color in zip(rises, RISE_COLORS, strict=False):
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
    return draw.svg(bottom + 46, "Rise of the loss by strength", "; ".join(told), parts)


def _budget_end(points: Sequence[Point]) -> float | None:
    """Strength at which the budget ends, between the last point inside and the first outside."""
    for before, after in itertools.pairwise(points):
        if before.is_inside and not after.is_inside:
            low, high = _most_used(before), _most_used(after)
            share = (1.0 - low) / (high - low) if high > low else 0.5
            first, second = abs(before.strength), abs(after.strength)
            return first + min(max(share, 0.0), 1.0) * (second - first)
    return None


def _up_to(line: Sequence[tuple[float, float]], most: float) -> list[tuple[float, float]]:
    """A rising line up to where it leaves the chart: drawn along its upper edge it would lie."""
    found: list[tuple[float, float]] = []
    for x, y in line:
        if y > most:
            if found:
                before, low = found[-1]
                found.append((before + (x - before) * (most - low) / (y - low), most))
            break
        found.append((x, y))
    return found


def _most_used(point: Point) -> float:
    return max([0.0, *point.used.values()])


def _interval(axis: draw.Axis, rate: Rate, y: float, kind: str, label: str) -> str:
    said = f"{label}: {per_cent(rate.rate)} ({per_cent(rate.low)} to {per_cent(rate.high)})"
    whisker = draw.line(axis(rate.low), y, axis(rate.high), y, f"whisker {kind}")
    return whisker + draw.dot(axis(rate.rate), y, kind, 5, said)


def _shares(counts: Sequence[int]) -> list[float]:
    """Counts of a histogram as shares of their sum."""
    return [one / max(sum(counts), 1) for one in counts]


def _mean(edges: Sequence[float], shares: Sequence[float]) -> float:
    """Mean of a histogram, by the middles of its bins."""
    return sum(s * (edges[n] + edges[n + 1]) / 2 for n, s in enumerate(shares))


def _steps(
    x: draw.Axis,
    y: draw.Axis,
    edges: Sequence[float],
    shares: Sequence[float],
    kind: str,
    said: str,
) -> str:
    """The area under a histogram."""
    steps = [(x(edges[0]), y(0.0))]
    for number, share in enumerate(shares):
        steps += [(x(edges[number]), y(share)), (x(edges[number + 1]), y(share))]
    steps.append((x(edges[-1]), y(0.0)))
    inside = draw.told("title", said)
    return f'<polygon points="{draw.path(steps)}" class="area-{kind}">{inside}</polygon>'
