"""Figures of a report: each chart with a caption for people who have never heard of the method."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from modelsurgery.report.explained import compared, wanted
from modelsurgery.report.html import charts
from modelsurgery.report.html.wording import signed
from modelsurgery.results import Compared, PromptSetResults
from modelsurgery.results.runs import Point
from modelsurgery.results.tables import largest_first

MOST_GROUPS = 24
BOTH = (("base", "base model"), ("edited", "edited model"))


@dataclass(frozen=True)
class Figure:
    """A chart with its caption."""

    name: str  # of the figure, for links
    title: str
    caption: str  # how to read it, for people who have never heard of the method
    chart: Markup  # SVG
    legend: tuple[tuple[str, str], ...] = ()  # color classes with their meaning


def rates_figure(rows: Sequence[tuple[str, Compared]]) -> Figure:
    """Base and edited rates of each label."""
    return Figure(
        "rates",
        "How often the behavior occurs",
        "Each model continued the same held-out prompts. A dot is the share of prompts that show "
        "the behavior, and the line is its 95% interval. The table above has the test of the "
        "difference.",
        charts.rates_chart(rows),
        BOTH,
    )


def curve_figure(points: Sequence[Point], name: str, uncalled: str | None = None) -> Figure:
    """The dose-response curve of a behavior; `uncalled` names prompts that do not call for it."""
    told, legend = "", [("edited", f"share of prompts that show {name}")]
    if uncalled is not None:
        told = (
            f" The second line is {uncalled}: the rise, in points, on prompts that do not call "
            f"for {name}."
        )
        legend.append(("uncalled", f"{uncalled}, rise"))
    return Figure(
        "curve",
        "Effect by strength of the edit",
        f"The same rows at other strengths. Above: how often {name} occurs (the band is the 95% "
        f"interval). Below: how much of the damage budget is used.{told} The dashed lines mark "
        "the end of the budget. Measured on validation prompts, not on the test prompts of the "
        "verdict.",
        charts.curve_chart(points, name, uncalled),
        (*legend, ("damage", "damage, share of budget")),
    )


def group_figures(sets: Sequence[PromptSetResults]) -> list[Figure]:
    """Rates by category, form or group, of each prompt set that has some."""
    grouped = [(one.name, by, groups) for one in sets for by, groups in one.by.items()]
    return [
        Figure(
            f"by-{number}",
            f"{name} by {by}",
            f"The same by {by}. Each has few prompts, so the intervals are wide.",
            charts.rates_chart(largest_first(groups)[:MOST_GROUPS]),
            BOTH,
        )
        for number, (name, by, groups) in enumerate(grouped)
    ]


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
    return [
        Figure(
            "explained",
            "Predicted and measured effect",
            "The gain is how much the edit should change the difference between the loss on "
            "texts that show the behavior and the loss on their opposites, to first order. The "
            "divergence is its price on neutral text. Above: the predicted gain of the chosen "
            "rows of each layer. Below: the prediction for the whole edit, and what was measured "
            "on validation texts. At strengths that use the whole budget, gains saturate and "
            "rows of a block interact, so the gain is lower and the price higher than predicted.",
            charts.explained_chart(layers, compared(fit)),
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
        "Edited rows of the MLP gates in each layer, from input to output.",
        charts.bars_chart(rows, "Edited rows by layer"),
    )


def _cosines(cosines: Mapping[str, Any]) -> Figure:
    return Figure(
        "cosines",
        "Why these neurons",
        "Cosine of each neuron's gate row with the behavior's direction, before the edit. The "
        "chosen rows point the opposite way most: they are inactive while the behavior occurs. "
        "The same number of random rows is shown for comparison.",
        charts.histogram_chart(
            cosines["edges"],
            [
                ("random rows", "other", cosines["random"]),
                ("chosen rows", "edited", cosines["chosen"]),
            ],
            "Cosine of gate rows with the direction",
            "cosine with the direction",
        ),
        (("other", "the same number of random rows"), ("edited", "chosen rows")),
    )


def _activations(active: Sequence[Mapping[str, Any]]) -> Figure:
    return Figure(
        "activations",
        "When the edited neurons are active",
        "Share of tokens at which an edited neuron is active while the model reads texts of each "
        "kind, before and after the edit. An edit away from a behavior should activate them "
        "where it occurs, and leave them unchanged on neutral text and capability prompts.",
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
        "How many of them are active at once",
        "For each token: how many of the edited neurons are active at the same time. A "
        "distribution that moves to the right means that more of them are active.",
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
        "Does the direction affect other texts?",
        "Cosine between the direction and the mean hidden state of held-out texts. Near zero, "
        "the direction has little to do with them. Otherwise the edit may affect them too; the "
        "damage measured above shows whether it does.",
        charts.bars_chart(rows, "Cosine of the direction with mean states"),
    )


def _probe_loss(losses: Sequence[Mapping[str, Any]]) -> Figure:
    return Figure(
        "probe-loss",
        "Loss of the probe on the edited model",
        "The probe's loss on held-out texts, with hidden states of the base and of the edited "
        "model. For an edit away from a behavior it should rise on texts that show the behavior, "
        "and stay the same elsewhere.",
        charts.pairs_chart(
            [(one["texts"], one["base"], one["edited"]) for one in losses],
            "Loss of the probe",
            unit="nats",
        ),
        BOTH,
    )


def _loss_rise(rises: Sequence[Mapping[str, Any]]) -> Figure:
    kinds = zip(charts.RISE_COLORS, rises, strict=False)
    return Figure(
        "loss-rise",
        "Does the edit go up the loss of the behavior?",
        "How much the model's loss on held-out texts rises as the edit grows to its strength, in "
        "nats per token. Dashed: to first order, from the gradient of the loss. Solid: measured. "
        "An edit away from a behavior should raise the loss of texts that show it more than that "
        "of their opposites. Where the lines of a kind part, the loss is not linear in the edit.",
        charts.rise_chart(rises),
        tuple((color, one["texts"]) for color, one in kinds),
    )


def _roc(roc: Mapping[str, Any]) -> Figure:
    return Figure(
        "roc",
        "How well the direction separates texts",
        "The probe behind the direction, on texts that it was not fitted on. A direction that "
        "separates texts need not steer the model; the measurements above show whether it does.",
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
    ("loss_rise", _loss_rise),
    ("roc", _roc),
)
