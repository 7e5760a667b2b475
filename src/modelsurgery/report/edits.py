"""What an edit is made of, in words: the terminal, the page and the card say the same."""

from modelsurgery.results.runs import EditResults, FitResults

METHODS = {
    "natural-gradient": (
        "On labeled texts it was measured how fast the model's loss rises or falls when a gate "
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


def edit_source(edit: EditResults) -> str:
    """Which rule an edit comes from, in words."""
    is_paper = edit.rule == "paper"
    return f"paper's rule, {edit.direction_source}" if is_paper else f"rule {edit.rule}"


def fit_lines(fit: FitResults | None) -> list[str]:
    """What the rule predicted, and what was measured of it."""
    if fit is None or fit.predicted is None or fit.measured is None:
        return []
    predicted, measured, evidence = fit.predicted, fit.measured, fit.evidence
    line = (
        f"rule    predicts {abs(predicted['gain']):.2g} nats a token for a divergence of "
        f"{predicted['divergence']:.2g}, to first order; on validation texts "
        f"{abs(measured['gain']):.2g} for {measured['divergence']:.2g}"
    )
    if evidence is None:
        return [line]
    agree = (
        f"parts of the texts promise {evidence['gain']:.2g} ± {evidence['error']:.1g} on the rest"
    )
    return [line, f"        {agree}"]


def shown_layers(window: tuple[int, int] | None, per_layer: bool) -> str:
    """Which layers are edited, and whether each gives its share."""
    shown = "all layers" if window is None else f"layers {window[0]}-{window[1]}"
    return f"{shown} alike" if per_layer else shown
