"""The page of `surgery rivals`: methods side by side, and how their effect grows with the price."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from modelsurgery.report.html import drawing as draw
from modelsurgery.report.html.content import Grid, Number, Page, Record
from modelsurgery.report.html.figures import Figure
from modelsurgery.report.html.wording import per_cent
from modelsurgery.report.rivals import headline, notes_of_rivals, tables_by_divergence
from modelsurgery.results.parts import Rate
from modelsurgery.results.rivals import RivalsResults

METHOD = (
    "All methods learned from the same texts. Each was made as strong as a given divergence from "
    "the base model allows, measured on text that nothing is reported on; then all continued the "
    "same held-out prompts, and a judge decided which continuations show the behavior."
)
CAPTION = (
    "The same methods at several prices. To the right a model is further from the base model on "
    "ordinary text; {better} is better. The line across is the base model. Hover over a dot for "
    "its interval."
)
GAP = 15  # pixels between two names
TOP, BOTTOM, NAMES = 14, 400, 320


def page_of_rivals(results: RivalsResults, record: Record) -> Page:
    """The page of a comparison."""
    best = [one for one in results.summary if one.target == results.divergences[-1]]
    titles = {one.name: one.title for one in results.methods}
    verdict = "No method gave anything."
    if best:
        base, changed = best[0].greedy
        verdict = (
            f"At a divergence of {best[0].target:g}, {titles[best[0].method]} moves "
            f"{per_cent(base.rate)} of greedy continuations to {per_cent(changed.rate)}."
        )
    return Page(
        title=f"{results.behavior.name}: methods, {results.model.name}",
        subject=f"{headline(results)} ({results.behavior.title})",
        verdict=verdict,
        numbers=tuple(
            Number(titles[one.method], per_cent(one.greedy[1].rate), "greedy") for one in best[:3]
        ),
        notes=tuple(notes_of_rivals(results)),
        figures=tuple(
            Figure(
                f"frontier-{name}",
                f"{results.behavior.name}, {name} continuations, against the price",
                CAPTION.format(better="higher" if results.direction == "toward" else "lower"),
                frontier_chart(results, name),
            )
            for name in ("greedy", "sampled")
        ),
        method=METHOD,
        facts=tuple(
            (one.title, " ".join(part for part in (one.source, one.settings, one.note) if part))
            for one in results.methods
        ),
        record=record,
        grids=tuple(
            Grid(f"At a divergence of {target:g} nats per token", lines[0], lines[1:])
            for target, lines in tables_by_divergence(results)
        ),
    )


def frontier_chart(results: RivalsResults, decoding: str) -> Markup:
    """`greedy` or `sampled` rate against divergence on held-out text; our lines stand out."""
    points: dict[str, list[tuple[float, Rate]]] = {}
    base: Rate | None = None
    for one in results.summary:
        base, changed = getattr(one, decoding)
        points.setdefault(one.method, []).append((max(one.divergence, 1e-5), changed))
    if base is None:
        return draw.svg(40, "No method gave anything", "", [])
    titles = {one.name: one.title for one in results.methods}
    spread = [math.log10(at) for some in points.values() for at, _ in some]
    end = draw.WIDTH - NAMES
    x = draw.Axis(min(spread) - 0.05, max(spread) + 0.05, draw.SCALE, end)
    top = max([base.rate, *(rate.rate for some in points.values() for _, rate in some)])
    y = draw.Axis(0.0, min(1.0, 1.1 * top + 0.01), BOTTOM, TOP)
    parts = draw.left_scale(y, y.ticks(6), end=end)
    parts.append(draw.line(draw.SCALE, y(base.rate), end, y(base.rate), "limit"))
    ticks = [(math.log10(target), f"{target:g}") for target in results.divergences]
    parts += draw.bottom_scale(x, BOTTOM, ticks, "divergence, nats per token")
    told, ends = [f"base model {per_cent(base.rate)}"], []
    for method, some in points.items():
        kind = "edited" if method.startswith("natural-gradient") else "other"
        line = [(x(math.log10(at)), y(rate.rate)) for at, rate in sorted(some, key=lambda p: p[0])]
        parts.append(draw.polyline(line, kind))
        for at, rate in some:
            said = (
                f"{titles[method]} at {at:.4f}: {per_cent(rate.rate)} "
                f"({per_cent(rate.low)} to {per_cent(rate.high)})"
            )
            told.append(said)
            parts.append(draw.dot(x(math.log10(at)), y(rate.rate), kind, 3.5, said))
        ends.append((line[-1], titles[method], kind))
    parts += _names(ends)
    return draw.svg(BOTTOM + 46, f"{decoding} rate against divergence", "; ".join(told), parts)


def _names(ends: Sequence[tuple[tuple[float, float], str, str]]) -> list[str]:
    """Names beside the ends of their lines, moved apart where they would meet."""
    ordered = sorted(ends, key=lambda one: one[0][1])
    places: list[float] = []
    for (_, down), _, _ in ordered:
        places.append(max(down, places[-1] + GAP) if places else down)
    limit = float(BOTTOM)
    for number in reversed(range(len(places))):  # and back up, where they would leave the chart
        places[number] = min(places[number], limit)
        limit = places[number] - GAP
    parts = []
    for ((across, down), name, kind), place in zip(ordered, places, strict=True):
        start = draw.WIDTH - NAMES + 14
        parts.append(draw.line(across + 5, down, start - 4, place - 1, "joint"))
        parts.append(draw.text(start, place + 4, name, "start", f"label name-{kind}"))
    return parts
