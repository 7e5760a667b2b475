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
from modelsurgery.report.html.drawing import LEFT, RIGHT, WIDTH
from modelsurgery.report.html.wording import capitalized, per_cent, signed

ROW = 34


def rates_chart(
    rows: Sequence[tuple[str, Mapping[str, float], Mapping[str, float] | None]],
) -> Markup:
    """Base and edited rates with their intervals, one row a measurement.

    Args:
        rows: label, base and edited rate (`rate`, `low`, `high`, 0..1); None was not measured.
    """
    highest = max((one["high"] for _, *both in rows for one in both if one), default=1.0)
    axis = draw.Axis(0.0, min(1.0, max(0.1, 1.08 * highest)), LEFT, WIDTH - RIGHT)
    height = ROW * len(rows) + 34
    parts = draw.vertical_grid(axis, height - 26, per_cent_ticks=True)
    told = []
    for number, (label, base, edited) in enumerate(rows):
        y = ROW * number + ROW / 2 + 4
        parts.append(draw.text(LEFT - 10, y + 4, label, "end"))
        told.append(f"{label}: base {per_cent(base['rate'])}")
        if edited is not None:
            told[-1] += f", edited {per_cent(edited['rate'])}"
            parts.append(draw.line(axis(base["rate"]), y, axis(edited["rate"]), y, "joint"))
            parts.append(_interval(axis, edited, y + 5, "edited", f"{label}, edited"))
        parts.append(_interval(axis, base, y - 5 if edited else y, "base", f"{label}, base"))
    return draw.svg(height, "Rates with 95% intervals", "; ".join(told), parts)


def curve_chart(
    points: Sequence[Mapping[str, Any]], name: str, uncalled: str | None = None
) -> Markup:
    """The dose-response curve: rate and use of the budget against strength.

    Args:
        points: of `results.json`, weakest first.
        name: of the behavior.
        uncalled: name of prompts that do not call for it; draws by how many points more of them
            show it, as a second line.
    """
    x = draw.Axis(0.0, max(abs(point["strength"]) for point in points), 60, WIDTH - RIGHT)
    rated = [(abs(one["strength"]), one) for one in points if one["rate"]]
    others = [] if uncalled is None else _uncalled_rises(points)
    top = max([*(one["rate"]["high"] for _, one in rated), *(rise for _, rise in others)] or [1.0])
    y = draw.Axis(0.0, min(1.0, 1.1 * top), 190, 14)
    use = draw.Axis(0.0, min(4.0, max(2.0, *map(_most_used, points))), 330, 238)
    parts = [draw.horizontal(60, y(tick), draw.tick_per_cent(tick)) for tick in y.ticks(4)]
    parts += [draw.horizontal(60, use(tick), draw.tick_per_cent(tick)) for tick in use.ticks(4)]
    parts += [draw.text(x(tick), 350, f"{tick:g}", "middle", "tick") for tick in x.ticks(6)]
    parts.append(draw.text((60 + WIDTH - RIGHT) / 2, 370, "strength of the edit", "middle", "tick"))
    parts.append(draw.text(60, 230, "share of the damage budget used", "start", "tick"))
    parts += _budget_lines(points, x, use)
    if others:
        line = [(x(strength), y(rise)) for strength, rise in others]
        parts.append(draw.polyline(line, "uncalled"))
    parts += _rate_curve(rated, x, y)
    used = [(abs(one["strength"]), _most_used(one)) for one in points]
    line = [(x(strength), use(share)) for strength, share in _up_to(used, use.high)]
    parts.append(draw.polyline(line, "damage"))
    told = [
        f"strength {s:.2f}: {per_cent(one['rate']['rate'])}, {100 * _most_used(one):.0f}% of the "
        f"budget{', chosen' if one['is_chosen'] else ''}"
        for s, one in rated
    ]
    if uncalled is not None:
        rises = ", ".join(f"{signed(100 * rise)} points at {at:.2f}" for at, rise in others)
        told.append(f"{uncalled}: {rises}")
    return draw.svg(378, f"Rate of {name} by strength", "; ".join(told), parts)


def _uncalled_rises(points: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Strength, and rise of the share of prompts that show the behavior uncalled for."""
    return [
        (abs(one["strength"]), one["uncalled_for"]["value"] / 100)
        for one in points
        if one["uncalled_for"] is not None
    ]


def _rate_curve(
    rated: Sequence[tuple[float, Mapping[str, Any]]], x: draw.Axis, y: draw.Axis
) -> list[str]:
    """Band, line and points of the rates; the chosen strength is ringed."""
    band = [(x(s), y(one["rate"]["high"])) for s, one in rated]
    band += [(x(s), y(one["rate"]["low"])) for s, one in reversed(rated)]
    parts = [f'<polygon points="{draw.path(band)}" class="band"/>']
    parts.append(draw.polyline([(x(s), y(one["rate"]["rate"])) for s, one in rated], "edited"))
    for strength, one in rated:
        chosen, across, down = one["is_chosen"], x(strength), y(one["rate"]["rate"])
        said = f"strength {strength:.2f}: {per_cent(one['rate']['rate'])}, " + _damage_said(one)
        parts.append(draw.dot(across, down, "edited", 6 if chosen else 4, said))
        if chosen:
            parts.append(f'<circle cx="{across}" cy="{down}" r="10" class="ring"/>')
            # Below a curve that falls and above one that rises there is nothing else.
            aside = 24 if one["rate"]["rate"] < rated[0][1]["rate"]["rate"] else -16
            parts.append(draw.text(across - 10, down + aside, "chosen", "end", "chosen-text"))
    return parts


def _budget_lines(points: Sequence[Mapping[str, Any]], x: draw.Axis, use: draw.Axis) -> list[str]:
    """Where all of the budget is used, and the strengths beyond."""
    parts = [draw.line(60, use(1.0), WIDTH - RIGHT, use(1.0), "limit")]
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
    """Horizontal bars from zero to both sides.

    Args:
        rows: label, value, and the value in words.
        title: of the chart.
    """
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
        parts.append(
            f'<rect x="{start}" y="{y}" width="{max(end - start, 1):.1f}" height="18" rx="2" '
            f'class="bar">{draw.told("title", f"{label}: {said}")}</rect>'
        )
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
            width = max(axis(value) - axis.start, 1)
            parts.append(
                f'<rect x="{axis.start}" y="{y + offset}" width="{width:.1f}" height="13" rx="2" '
                f'class="fill-{kind}">{draw.told("title", f"{label}, {kind}: {said}")}</rect>'
            )
            parts.append(draw.text(axis.start + width + 8, y + offset + 11, said, "start", "tick"))
            told.append(f"{label}, {kind}: {said}")
    return draw.svg(46 * len(rows) + 8, title, "; ".join(told), parts)


def explained_chart(
    layers: Sequence[tuple[str, float, str]],
    compared: Sequence[tuple[str, float, float | None]],
) -> Markup:
    """Predicted gain layer by layer; below, what was predicted beside what was measured.

    Args:
        layers: label, predicted gain, and what else to say of the layer.
        compared: name, predicted and measured value, each pair on a scale of its own; None was not
            measured.
    """
    title = "Predicted gain by layer, nats per token"
    blocks = [(title, 22, [(label, gain, "other", said) for label, gain, said in layers])]
    for name, predicted, measured in compared:
        found = [("predicted", predicted, "other", f"{predicted:.2g}")]
        if measured is not None:
            found.append(("measured", measured, "edited", f"{measured:.2g}"))
        blocks.append((f"{capitalized(name)}, nats per token", 22, found))
    parts, told, y = [], [], 16.0
    for heading, step, bars in blocks:
        values = [value for _, value, _, _ in bars]
        axis = draw.Axis(min(0.0, *values), max(1e-12, *values), LEFT, WIDTH - RIGHT - 160)
        parts.append(draw.text(LEFT, y, heading, "start", "tick"))
        for label, value, kind, said in bars:
            y += step
            parts.append(draw.text(LEFT - 10, y, label, "end"))
            start, end = sorted((axis(0.0), axis(value)))
            parts.append(draw.bar(start, end, y - 12, f"fill-{kind}", f"{label}: {said}"))
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
    """Several histograms over the same bins, each as shares of its own sum.

    Args:
        edges: [n + 1] bounds of the bins.
        series: name, color class, and n counts.
        title: of the chart.
        axis_name: what the bins are of.
    """
    x = draw.Axis(edges[0], edges[-1], 60, WIDTH - RIGHT)
    shares = [
        (name, kind, [one / max(sum(counts), 1) for one in counts]) for name, kind, counts in series
    ]
    y = draw.Axis(0.0, max([*(max(some) for _, _, some in shares), 1e-9]) * 1.05, 200, 12)
    parts = [draw.horizontal(60, y(tick), draw.tick_per_cent(tick)) for tick in y.ticks(4)]
    parts += [draw.text(x(tick), 218, f"{tick:g}", "middle", "tick") for tick in x.ticks(8)]
    parts.append(draw.text((60 + WIDTH - RIGHT) / 2, 238, axis_name, "middle", "tick"))
    told = []
    for name, kind, some in shares:
        parts.append(_steps(x, y, edges, some, kind, name))
        middle = sum(s * (edges[n] + edges[n + 1]) / 2 for n, s in enumerate(some))
        told.append(f"{name}: mean {middle:.3f}")
    return draw.svg(246, title, "; ".join(told), parts)


def panels_chart(
    panels: Sequence[tuple[str, Sequence[float], Sequence[int], Sequence[int]]],
    title: str,
    axis_name: str,
) -> Markup:
    """Histograms of base and edited model, a panel below the other, on the same axes.

    Args:
        panels: name, [n + 1] bounds of the bins, n counts of the base and n of the edited model.
        title: of the chart.
        axis_name: what the bins are of.
    """
    height = 92
    x = draw.Axis(0.0, max(edges[-1] for _, edges, _, _ in panels), 60, WIDTH - RIGHT)
    shares = [
        [[one / max(sum(counts), 1) for one in counts] for counts in both] for _, _, *both in panels
    ]
    highest = max([*(share for both in shares for some in both for share in some), 1e-9])
    parts, told = [], []
    for number, (name, edges, *_) in enumerate(panels):
        bottom = height * (number + 1)
        y = draw.Axis(0.0, highest, bottom, bottom - height + 30)
        parts.append(draw.text(60, bottom - height + 22, name, "start"))
        parts += [
            draw.horizontal(60, y(tick), draw.tick_per_cent(tick)) for tick in (0.0, y.ticks(2)[-1])
        ]
        for kind, some in zip(("base", "edited"), shares[number], strict=True):
            middle = sum(s * (edges[n] + edges[n + 1]) / 2 for n, s in enumerate(some))
            said = f"{name}, {kind}: {middle:.1f} on average"
            parts.append(_steps(x, y, edges, some, kind, said))
            told.append(said)
    bottom = height * len(panels)
    parts += [draw.text(x(tick), bottom + 18, f"{tick:g}", "middle", "tick") for tick in x.ticks(8)]
    parts.append(draw.text((60 + WIDTH - RIGHT) / 2, bottom + 38, axis_name, "middle", "tick"))
    return draw.svg(bottom + 46, title, "; ".join(told), parts)


def roc_chart(
    false_positive: Sequence[float], true_positive: Sequence[float], auroc: float
) -> Markup:
    """The probe's true against its false positives on held-out texts."""
    x, y = draw.Axis(0.0, 1.0, 60, 300), draw.Axis(0.0, 1.0, 252, 12)
    parts = [
        draw.horizontal(60, y(tick), draw.tick_per_cent(tick), 300)
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    parts += [
        draw.text(x(tick), 270, draw.tick_per_cent(tick), "middle", "tick")
        for tick in (0.0, 0.5, 1.0)
    ]
    parts.append(draw.text(180, 290, "opposites classified as the behavior", "middle", "tick"))
    parts.append(draw.line(x(0), y(0), x(1), y(1), "limit"))
    line = [(x(one), y(other)) for one, other in zip(false_positive, true_positive, strict=True)]
    parts.append(draw.polyline(line, "edited"))
    parts.append(draw.text(330, 110, f"AUROC {auroc:.3f}", "start", "big"))
    parts.append(draw.text(330, 134, "1 separates every pair, 0.5 is chance", "start", "tick"))
    return draw.svg(298, "The probe on held-out texts", f"AUROC {auroc:.3f}", parts)


def _budget_end(points: Sequence[Mapping[str, Any]]) -> float | None:
    """Strength at which the budget ends, between the last point inside and the first outside."""
    for before, after in itertools.pairwise(points):
        if before["is_inside"] and not after["is_inside"]:
            low, high = _most_used(before), _most_used(after)
            share = (1.0 - low) / (high - low) if high > low else 0.5
            first, second = abs(before["strength"]), abs(after["strength"])
            return float(first + min(max(share, 0.0), 1.0) * (second - first))
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


def _most_used(point: Mapping[str, Any]) -> float:
    return float(max([0.0, *point["used"].values()]))


def _damage_said(point: Mapping[str, Any]) -> str:
    return (
        f"{signed(100 * point['perplexity_rise']['value'])}% perplexity, "
        f"{signed(-point['capability_drop']['value'])} points of capability"
    )


def _interval(axis: draw.Axis, rate: Mapping[str, float], y: float, kind: str, label: str) -> str:
    said = (
        f"{label}: {per_cent(rate['rate'])} ({per_cent(rate['low'])} to {per_cent(rate['high'])})"
    )
    return draw.line(axis(rate["low"]), y, axis(rate["high"]), y, f"whisker {kind}") + draw.dot(
        axis(rate["rate"]), y, kind, 5, said
    )


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
