"""What an edit is made of, in words: the terminal, the page and the card say the same."""

from modelsurgery.results.runs import EditResults, FitResults

METHODS = {
    "natural-gradient": (
        "On labeled texts, the rule measured how the model's loss changes when a gate row moves "
        "along the direction that separates the behavior from its opposite. On neutral text, it "
        "measured what such a move costs. The rows with the largest gain for their cost were "
        "moved, each by its own amount. Nothing was trained, and the base model was not changed."
    ),
    "least-squares": (
        "In forward passes, the rule measured how each neuron would change the behavior's "
        "direction if its gate row moved, and how that would change neutral text. The amounts "
        "solve a least-squares problem in each block. Nothing was trained, and the base model "
        "was not changed."
    ),
    "paper": (
        "A linear probe learned which direction of the hidden states goes with the behavior. The "
        "gate rows of neurons that point away from it were moved along that direction. Only the "
        "probe was trained, and the base model was not changed."
    ),
}


def edit_source(edit: EditResults) -> str:
    """Which rule an edit comes from, in words."""
    if edit.rule == "paper":
        return f"paper's rule, {edit.direction_source}"
    return f"rule {edit.rule}" + (f" in {edit.steps} steps" if (edit.steps or 1) > 1 else "")


def fit_lines(fit: FitResults | None) -> list[str]:
    """What the rule predicted, and what was measured of it."""
    if fit is None or fit.predicted is None or fit.measured is None:
        return []
    predicted, measured, evidence = fit.predicted, fit.measured, fit.evidence
    line = (
        f"rule    predicts a gain of {abs(predicted['gain']):.2g} nats per token for a divergence "
        f"of {predicted['divergence']:.2g}; measured on validation texts: "
        f"{abs(measured['gain']):.2g} for {measured['divergence']:.2g}"
    )
    if evidence is None:
        return [line]
    agree = f"cross-validated gain {evidence['gain']:.2g} ± {evidence['error']:.1g}"
    return [line, f"        {agree}"]


def shown_layers(window: tuple[int, int] | None, per_layer: bool) -> str:
    """Which layers are edited, and whether each gives its share."""
    shown = "all layers" if window is None else f"layers {window[0]}-{window[1]}"
    return f"{shown}, the same share of each" if per_layer else shown
