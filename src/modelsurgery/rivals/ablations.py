"""Ablations: both rules with one thing changed, as the paper's table has them and more.

Each is a method like any other. Those that share a probe or a reading of the texts share it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from modelsurgery.edit.option_names import DirectionSource
from modelsurgery.edit.region import PAPER_ROWS
from modelsurgery.model.stacking import score_model_rows
from modelsurgery.rivals.edits import (
    LeastSquares,
    intervention_of,
    paper_proposal_of,
    proposal_of,
    stepped,
    turned,
)
from modelsurgery.rivals.intervention import EditIntervention, Intervention
from modelsurgery.rivals.matrices import natural_gradient_of
from modelsurgery.rivals.method import Delivery, Materials, Method
from modelsurgery.rules.proposal import RowProposal

PAPER = "paper's rule"
OURS = "natural gradient"


@dataclass(frozen=True)
class Ablation(Method):
    """A rule with one thing changed; `make` gives the intervention."""

    name: str
    title: str
    make: Callable[[Materials], Intervention] = field(repr=False)
    delivery: Delivery = "weights or adapter"
    source = "ablation"

    def fit(self, given: Materials) -> Intervention:
        """Make the intervention."""
        return self.make(given)


Change = Callable[[Materials, RowProposal], RowProposal]


def paper_rule(
    given: Materials,
    *,
    change: Change | None = None,
    share: float = 1.0,
    source: DirectionSource = "W1",
    rows: float = PAPER_ROWS,
) -> EditIntervention:
    """The paper's rule with a probe at a share of the layers."""
    layer = max(1, round(share * given.model.layer_count))
    proposal = paper_proposal_of(given, layer, source)
    return intervention_of(given, change(given, proposal) if change else proposal, rows)


def natural_gradient(
    given: Materials,
    *,
    change: Change | None = None,
    rows: float = PAPER_ROWS,
    texts: int | None = None,
    damping: float | None = None,
) -> EditIntervention:
    """The natural gradient in one step, without a climb to a divergence."""
    proposal = proposal_of(given, "natural-gradient", texts, damping)
    return intervention_of(given, change(given, proposal) if change else proposal, rows)


def random_rows(given: Materials, proposal: RowProposal) -> RowProposal:
    """The same, but rows are chosen at random."""
    random = np.random.default_rng(given.seed)
    return replace(proposal, scores=tuple(random.random(len(one)) for one in proposal.scores))


def random_direction(given: Materials, proposal: RowProposal) -> RowProposal:
    """A random direction in place of the probe's, and rows by their cosine with it."""
    model = given.model
    size = proposal.directions[0].shape[1]
    direction = np.random.default_rng(given.seed).standard_normal((1, size)).astype(np.float32)
    scores = score_model_rows(model, direction)
    return replace(
        proposal,
        directions=tuple(direction for _ in proposal.directions),
        scores=tuple(-cosines[0].astype(np.float64) for cosines in scores.cosines),
    )


def most_aligned(_: Materials, proposal: RowProposal) -> RowProposal:
    """Rows that point along the direction, of which it is subtracted."""
    return replace(
        proposal,
        scores=tuple(-one for one in proposal.scores),
        coefficients=tuple(-one for one in proposal.coefficients),
    )


def equal_coefficients(_: Materials, proposal: RowProposal) -> RowProposal:
    """The same rows, all by the same amount."""
    return replace(proposal, coefficients=tuple(np.sign(one) for one in proposal.coefficients))


def without_quarter(number: int) -> Change:
    """Leaves a quarter of the blocks out, 1 to 4."""

    def change(given: Materials, proposal: RowProposal) -> RowProposal:
        count = given.model.layer_count
        left_out = range(((number - 1) * count) // 4, (number * count) // 4)
        worst = min(float(one.min()) for one in proposal.scores) - 1.0
        scores = tuple(
            np.full_like(one, worst) if gate.block in left_out else one
            for gate, one in zip(proposal.gates, proposal.scores, strict=True)
        )
        return replace(proposal, scores=scores)

    return change


def _of_rows(share: float) -> str:
    return f"{100 * share:g} % of the rows"


def _turned(given: Materials) -> EditIntervention:
    return turned(natural_gradient(given), given.seed)


def _ours(name: str, what: str, **changed: Any) -> Ablation:
    return Ablation(name, f"{OURS}, {what}", partial(natural_gradient, **changed))


def _paper(name: str, what: str, **changed: Any) -> Ablation:
    return Ablation(f"paper-{name}", f"{PAPER}, {what}", partial(paper_rule, **changed))


QUARTERS = {
    f"without-q{n}": (f"blocks of quarter {n} left out", without_quarter(n)) for n in (1, 2, 3, 4)
}
PROBES = {
    "first": ("layer 1", 0.0),
    "half": ("layer L/2", 0.5),
    "three-quarters": ("layer 3L/4", 0.75),
}
OTHER_DIRECTIONS = ("W1-W0", "mean-difference")
ABLATIONS: dict[str, Method] = {
    one.name: one
    for one in (
        Ablation("natural-gradient", OURS, partial(stepped, steps=1)),
        *(
            Ablation(f"steps-{n}", f"{OURS}, {n} steps", partial(stepped, steps=n))
            for n in (2, 3, 4, 8)
        ),
        Ablation("random-direction", f"{OURS}, random directions", _turned),
        _ours("random-rows", "random rows", change=random_rows),
        _ours("equal", "equal coefficients", change=equal_coefficients),
        *(_ours(name, what, change=change) for name, (what, change) in QUARTERS.items()),
        *(_ours(f"rows-{rows:g}", _of_rows(rows), rows=rows) for rows in (0.005, 0.01, 0.2, 1.0)),
        *(
            _ours(f"damping-{value:g}", f"damping {value:g}", damping=value)
            for value in (0.01, 1.0)
        ),
        *(_ours(f"texts-{n}", f"{n} texts of each label", texts=n) for n in (12, 25, 50, 100)),
        *(
            Ablation(
                f"matrix-{name}",
                f"{OURS}, {name} projection",
                partial(natural_gradient_of, matrix=name),
                delivery="weights",
            )
            for name in ("gate", "up", "down", "q", "k", "v", "o")
        ),
        Ablation("least-squares", "least squares", LeastSquares().fit),
        Ablation("paper", PAPER, paper_rule),
        _paper("random-probe", "random probe", change=random_direction),
        _paper("random-rows", "random region", change=random_rows),
        _paper("aligned", "most aligned rows, subtracted", change=most_aligned),
        *(
            _paper(f"layer-{name}", f"probe of {title}", share=share)
            for name, (title, share) in PROBES.items()
        ),
        *(_paper(name, what, change=change) for name, (what, change) in QUARTERS.items()),
        *(_paper(name.lower(), f"direction {name}", source=name) for name in OTHER_DIRECTIONS),
        *(_paper(f"rows-{rows:g}", _of_rows(rows), rows=rows) for rows in (0.01, 0.2)),
    )
}
