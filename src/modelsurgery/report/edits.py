"""What an edit is made of, in words: the terminal, the page and the card say the same."""

from typing import Any

METHODS = {
    "natural-gradient": (
        "On labelled texts it was measured how fast the model's loss rises or falls when a gate "
        "row is moved along the direction that tells the behavior apart, and on neutral text what "
        "such a move costs. The rows that give most for their price were moved, each by its own "
        "amount. Nothing was trained, and the base model was not written to."
    ),
    "least-squares": (
        "From forward passes alone it was measured what each neuron would do to the behavior's "
        "direction when its gate row is moved, and what that does to neutral text. The amounts "
        "solve a least-squares problem in each block. Nothing was trained, and the base model was "
        "not written to."
    ),
    "paper": (
        "A linear probe learned which direction of the model's inner state goes with the behavior. "
        "The gate rows of neurons that point away from it were moved along that direction. Nothing "
        "was trained but the probe, and the base model was not written to."
    ),
}


def rule_of(edit: dict[str, Any]) -> str:
    """The rule of the `edit` part of results; those of earlier versions are the paper's."""
    return str(edit.get("rule") or "paper")


def edit_source(edit: dict[str, Any]) -> str:
    """Which rule an edit comes from, in words."""
    rule = rule_of(edit)
    return f"paper's rule, {edit['direction_rule']}" if rule == "paper" else f"rule {rule}"


def fit_lines(fit: dict[str, Any] | None) -> list[str]:
    """What the rule predicted, and what was measured of it."""
    if fit is None or fit["predicted"] is None or fit["measured"] is None:
        return []
    predicted, measured, evidence = fit["predicted"], fit["measured"], fit["evidence"]
    line = (
        f"rule    predicts {abs(predicted['gain']):.2g} nats a token for a divergence of "
        f"{predicted['divergence']:.2g}, to first order; on tuning texts "
        f"{abs(measured['gain']):.2g} for {measured['divergence']:.2g}"
    )
    if evidence is None:
        return [line]
    agree = (
        f"parts of the texts promise {evidence['gain']:.2g} ± {evidence['error']:.1g} on the rest"
    )
    return [line, f"        {agree}"]


def origin_line(origin: dict[str, Any]) -> str:
    """Where a fetched model came from."""
    title = origin.get("title") or origin["model"]
    return ", ".join(str(one) for one in (title, origin.get("note"), origin.get("from")) if one)


def shown_layers(edit: dict[str, Any]) -> str:
    """Which layers are edited, and whether each gives its share."""
    window = edit["layers"]
    shown = "all layers" if window is None else f"layers {window[0]}-{window[1]}"
    return f"{shown} alike" if edit["per_layer"] else shown
