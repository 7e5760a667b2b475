"""Figures of a report: each chart with a caption for people who have never heard of the method."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from modelsurgery.report.explained import compared, wanted
from modelsurgery.report.html import charts
from modelsurgery.report.html.wording import signed
from modelsurgery.results import PromptSetResults, Rate
from modelsurgery.results.runs import Point

MOST_GROUPS = 24
BOTH = (("base", "base model"), ("edited", "edited model"))


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


def rates_figure(rows: Sequence[tuple[str, Rate, Rate | None]]) -> Figure:
    """Base and edited rates: label, base and edited rate of each row."""
    return Figure(
        "rates",
        "How often it shows",
        "Each model continued the same held-out prompts. A dot is the share of prompts that show "
        "the behavior, the line its 95% interval. Lines far apart are more than chance; the table "
        "above has the test of the difference.",
        charts.rates_chart([_plain_rates(*row) for row in rows]),
        BOTH,
    )


def curve_figure(points: Sequence[Point], name: str, uncalled: str | None = None) -> Figure:
    """The dose-response curve of a run.

    Args:
        points: weakest first.
        name: of the behavior.
        uncalled: name of prompts that do not call for the behavior; None without such prompts.
    """
    told, legend = "", [("edited", f"share of prompts that show {name}")]
    if uncalled is not None:
        told = (
            f" The second line is {uncalled}: by how many points more of the prompts that do not "
            f"call for {name} show it."
        )
        legend.append(("uncalled", f"{uncalled}, rise"))
    return Figure(
        "curve",
        "What a stronger or weaker edit would do",
        f"The same rows at other strengths: above, how often {name} shows (the band is the 95% "
        f"interval); below, how much of the allowed damage is used.{told} The dashed lines are "
        "where the budget ends. Measured on validation prompts, apart from those of the verdict.",
        charts.curve_chart([one.model_dump() for one in points], name, uncalled),
        (*legend, ("damage", "damage, share of budget")),
    )


def group_figures(sets: Sequence[PromptSetResults]) -> list[Figure]:
    """Rates by category, form or group, of each prompt set that has some."""
    found: list[Figure] = []
    for one in sets:
        for by, groups in one.by.items():
            ordered = sorted(groups.items(), key=lambda item: (-item[1].base.rate, item[0]))
            rows = [_plain_rates(key, got.base, got.edited) for key, got in ordered[:MOST_GROUPS]]
            found.append(
                Figure(
                    f"by-{len(found)}",
                    f"{one.name} by {by}",
                    f"The same, for each {by}: few prompts each, so the intervals are wide.",
                    charts.rates_chart(rows),
                    BOTH,
                )
            )
    return found


def _plain_rates(
    label: str, base: Rate, edited: Rate | None
) -> tuple[str, dict[str, float], dict[str, float] | None]:
    """A row of a chart of rates."""
    return label, base.model_dump(), None if edited is None else edited.model_dump()


def explained_figures(fit: Mapping[str, Any] | None) -> list[Figure]:
    """What the rule expected of the edit; none of a rule that predicts nothing."""
    if not fit or not fit.get("predicted") or not fit.get("by_layer"):
        return []
    sign = wanted(fit)
    layers = [
        (
            f"layer {one['layer']}",
            sign * one["gain"],
            f"{sign * one['gain']:.2g}, {one['rows']:,} {'row' if one['rows'] == 1 else 'rows'}",
        )
        for one in fit["by_layer"]
    ]
    both = [(one.name, one.predicted, one.measured) for one in compared(fit)]
    return [
        Figure(
            "explained",
            "What the rule expected of the edit",
            "The gain is how far the edit should pull apart the loss on texts that show the "
            "behavior and the loss on their opposites, to first order; the divergence is its price "
            "on neutral text. Above, the gain that the chosen rows of each layer were to give; "
            "below, the whole edit as it was expected, and as it was measured on validation texts. "
            "At strengths that use the budget gains saturate, and rows of a block act together, so "
            "that less is gained and more is paid than expected.",
            charts.explained_chart(layers, both),
            (("other", "predicted by the rule"), ("edited", "measured on validation texts")),
        )
    ]


def inside_figures(inside: Mapping[str, Any]) -> list[Figure]:
    """What is to be seen of rows, neurons and probe, of the parts that are there."""
    return [
        figure
        for part, make in INSIDE
        if inside.get(part) and (figure := make(inside[part])) is not None
    ]


def _layers(layers: Sequence[Mapping[str, Any]]) -> Figure:
    rows = [
        (f"layer {one['layer']}", float(one["chosen"]), f"{one['chosen']:,} of {one['rows']:,}")
        for one in layers
    ]
    return Figure(
        "layers",
        "Where the edited neurons are",
        "Rows of the MLP gates that were edited, layer by layer, from input to output.",
        charts.bars_chart(rows, "Edited rows by layer"),
    )


def _cosines(cosines: Mapping[str, Any]) -> Figure:
    return Figure(
        "cosines",
        "Why these neurons",
        "How much each neuron's gate points along the behavior's direction before the edit. The "
        "chosen ones point the other way most: they stay silent while the behavior happens. As "
        "many random rows are shown beside them.",
        charts.histogram_chart(
            cosines["edges"],
            [
                ("random rows", "other", cosines["random"]),
                ("chosen rows", "edited", cosines["chosen"]),
            ],
            "Cosine of gate rows with the direction",
            "cosine with the direction",
        ),
        (("other", "as many random rows"), ("edited", "chosen rows")),
    )


def _activations(active: Sequence[Mapping[str, Any]]) -> Figure:
    return Figure(
        "activations",
        "When the edited neurons are awake",
        "Share of moments at which an edited neuron is active, while the model reads texts of each "
        "kind, before and after. Against a behavior, the edit should wake them where it shows, and "
        "leave them as they were on neutral text.",
        charts.pairs_chart(
            [(one["texts"], one["base"], one["edited"]) for one in active],
            "Active share of edited neurons",
        ),
        BOTH,
    )


def _counts(active: Sequence[Mapping[str, Any]]) -> Figure | None:
    counted = [(one["texts"], one["counts"]) for one in active if one.get("counts")]
    if not counted:
        return None
    return Figure(
        "counts",
        "How many of them are awake at once",
        "For every moment of reading: how many of the edited neurons are active together. A hill "
        "that moves to the right means that more of them wake up.",
        charts.panels_chart(
            [(texts, some["edges"], some["base"], some["edited"]) for texts, some in counted],
            "Edited neurons that are active at once",
            "edited neurons active at once",
        ),
        BOTH,
    )


def _similarity(similar: Sequence[Mapping[str, Any]]) -> Figure:
    rows = [(one["texts"], one["cosine"], signed(one["cosine"], 3)) for one in similar]
    return Figure(
        "similarity",
        "Does the direction touch anything else?",
        "Cosine between the direction and the mean inner state of texts that were held out. Near "
        "zero, the direction has little to do with them; far from it, the edit may touch them as "
        "well, and the damage measured above is what tells.",
        charts.bars_chart(rows, "Cosine of the direction with mean states"),
    )


def _probe_loss(losses: Sequence[Mapping[str, Any]]) -> Figure:
    return Figure(
        "probe-loss",
        "What the probe makes of the edited model",
        "The probe's loss on held-out texts as either model reads them. Against a behavior, it "
        "should rise on texts that show it (they look less like it) and stay elsewhere.",
        charts.pairs_chart(
            [(one["texts"], one["base"], one["edited"]) for one in losses],
            "Loss of the probe",
            unit="nats",
        ),
        BOTH,
    )


def _roc(roc: Mapping[str, Any]) -> Figure:
    return Figure(
        "roc",
        "How well the direction tells texts apart",
        "The probe behind the direction, on texts that it was not fitted on. Telling them apart is "
        "no proof of steering them: that is what the measurements above are for.",
        charts.roc_chart(roc["false_positive_rate"], roc["true_positive_rate"], roc["auroc"]),
    )


# Parts of `inside`, in the order of the page; one part may have several figures.
INSIDE: tuple[tuple[str, Callable[[Any], Figure | None]], ...] = (
    ("rows_by_layer", _layers),
    ("cosines", _cosines),
    ("activations", _activations),
    ("activations", _counts),
    ("similarity", _similarity),
    ("probe_loss", _probe_loss),
    ("roc", _roc),
)
