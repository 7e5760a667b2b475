"""Figures of a report: each chart with a caption for people who have never heard of the method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from modelsurgery.report.html import charts

MOST_GROUPS = 24


@dataclass(frozen=True)
class Figure:
    """A chart with its caption.

    Attributes:
        name: of the figure, for links.
        title: what it shows.
        caption: how to read it, for people who have never heard of the method.
        chart: SVG.
        legend: color classes with their meaning.
    """

    name: str
    title: str
    caption: str
    chart: Markup
    legend: tuple[tuple[str, str], ...] = ()


def rates_figure(rows: Sequence[tuple[str, Any, Any]]) -> Figure:
    """Base and edited rates: label, base and edited rate of each row."""
    return Figure(
        "rates",
        "How often it shows",
        "Each model continued the same held-out prompts. A dot is the share of prompts that show "
        "the behavior, the line its 95 % interval: where lines do not overlap, the difference is "
        "real.",
        charts.rates_chart(rows),
        (("base", "base model"), ("edited", "edited model")),
    )


def curve_figure(points: Sequence[Mapping[str, Any]], name: str) -> Figure:
    """The dose-response curve of a run."""
    return Figure(
        "curve",
        "What a stronger or weaker edit would do",
        f"The same rows at other strengths: above, how often {name} shows (the band is the 95 % "
        "interval); below, how much of the allowed damage is used. The dashed line is where the "
        "budget ends. Measured on tuning prompts, apart from those of the verdict.",
        charts.curve_chart(points, name),
        (("edited", f"share of prompts that show {name}"), ("damage", "damage, share of budget")),
    )


def group_figures(sets: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Rates by category, form or group, of each prompt set that has some."""
    found: list[Figure] = []
    for one in sets:
        for by, groups in one["by"].items():
            ordered = sorted(groups.items(), key=lambda item: (-item[1]["base"]["rate"], item[0]))
            rows = [(key, got["base"], got["edited"]) for key, got in ordered[:MOST_GROUPS]]
            found.append(
                Figure(
                    f"by-{len(found)}",
                    f"{one['name']} by {by}",
                    f"The same, for each {by}: few prompts each, so the intervals are wide.",
                    charts.rates_chart(rows),
                    (("base", "base model"), ("edited", "edited model")),
                )
            )
    return found


def inside_figures(inside: Mapping[str, Any]) -> list[Figure]:
    """What is to be seen of rows, neurons and probe, of the parts that are there."""
    found = []
    if layers := inside.get("rows_by_layer"):
        rows = [
            (f"layer {one['layer']}", float(one["chosen"]), f"{one['chosen']:,} of {one['rows']:,}")
            for one in layers
        ]
        found.append(
            Figure(
                "layers",
                "Where the edited neurons are",
                "Rows of the MLP gates that were edited, layer by layer, from input to output.",
                charts.bars_chart(rows, "Edited rows by layer"),
            )
        )
    if cosines := inside.get("cosines"):
        found.append(
            Figure(
                "cosines",
                "Why these neurons",
                "How much each neuron's gate points along the behavior's direction before the "
                "edit. The chosen ones point the other way most: they stay silent while the "
                "behavior happens. As many random rows are shown beside them.",
                charts.histogram_chart(
                    cosines["edges"],
                    [
                        ("random rows", "base", cosines["random"]),
                        ("chosen rows", "edited", cosines["chosen"]),
                    ],
                    "Cosine of gate rows with the direction",
                    "cosine with the direction",
                ),
                (("base", "as many random rows"), ("edited", "chosen rows")),
            )
        )
    if active := inside.get("activations"):
        found.append(
            Figure(
                "activations",
                "When the edited neurons are awake",
                "Share of moments at which an edited neuron is active, while the model reads texts "
                "of each kind, before and after. The edit should wake them where the behavior "
                "shows, and leave them as they were on neutral text.",
                charts.pairs_chart(
                    [(one["texts"], one["base"], one["edited"]) for one in active],
                    "Active share of edited neurons",
                ),
                (("base", "base model"), ("edited", "edited model")),
            )
        )
    if similar := inside.get("similarity"):
        rows = [(one["texts"], one["cosine"], f"{one['cosine']:+.3f}") for one in similar]
        found.append(
            Figure(
                "similarity",
                "Does the direction touch anything else?",
                "Cosine between the direction and the mean inner state of other texts. Near zero: "
                "what the edit pushes on has little to do with them.",
                charts.bars_chart(rows, "Cosine of the direction with mean states"),
            )
        )
    if losses := inside.get("probe_loss"):
        found.append(
            Figure(
                "probe-loss",
                "What the probe makes of the edited model",
                "The probe's loss on held-out texts as either model reads them. It should rise on "
                "texts that show the behavior (they look less like it) and stay elsewhere.",
                charts.pairs_chart(
                    [(one["texts"], one["base"], one["edited"]) for one in losses],
                    "Loss of the probe",
                    unit="nats",
                ),
                (("base", "base model"), ("edited", "edited model")),
            )
        )
    if roc := inside.get("roc"):
        found.append(
            Figure(
                "roc",
                "How well the direction tells texts apart",
                "The probe behind the direction, on texts that it was not fitted on. Telling them "
                "apart is no proof of steering them: that is what the measurements above are for.",
                charts.roc_chart(
                    roc["false_positive_rate"], roc["true_positive_rate"], roc["auroc"]
                ),
            )
        )
    return found
