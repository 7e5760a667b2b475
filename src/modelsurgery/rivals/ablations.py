"""Ablations: both rules with one thing changed, as the paper's table has them and more.

Each is a method like any other. Those that share a probe or a reading of the texts share it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from modelsurgery.edit.region import PAPER_ROWS
from modelsurgery.model.stacking import score_model_rows
from modelsurgery.rivals.edits import (
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
    """A rule with one thing changed.

    Attributes:
        name: see `Method`.
        title: see `Method`.
        make: the intervention.
        source: see `Method`.
        delivery: see `Method`.
        settings: see `Method`.
        note: see `Method`.
    """

    name: str
    title: str
    make: Callable[[Materials], Intervention] = field(repr=False)
    source: str = "ablation"
    delivery: Delivery = "weights or adapter"
    settings: str = ""
    note: str = ""

    def fit(self, given: Materials) -> Intervention:
        """Make the intervention."""
        return self.make(given)


Change = Callable[[Materials, RowProposal], RowProposal]


def _paper(
    change: Change | None = None,
    *,
    share: float = 1.0,
    source: str = "W1",
    rows: float = PAPER_ROWS,
) -> Callable[[Materials], Intervention]:
    """The paper's rule with a probe at a share of the layers."""

    def make(given: Materials) -> Intervention:
        layer = max(1, round(share * given.model.layer_count))
        proposal = paper_proposal_of(given, layer, source)  # type: ignore[arg-type]
        return intervention_of(given, change(given, proposal) if change else proposal, rows)

    return make


def _ours(
    change: Change | None = None,
    *,
    rows: float = PAPER_ROWS,
    texts: int | None = None,
    damping: float | None = None,
) -> Callable[[Materials], Intervention]:
    def make(given: Materials) -> Intervention:
        proposal = proposal_of(given, "natural-gradient", texts, damping)
        return intervention_of(given, change(given, proposal) if change else proposal, rows)

    return make


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
        first, last = ((number - 1) * count) // 4, (number * count) // 4
        worst = min(float(one.min()) for one in proposal.scores) - 1.0

        def kept(block: int, scores: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.full_like(scores, worst) if first <= block < last else scores

        scores = tuple(
            kept(gate.block, one) for gate, one in zip(proposal.gates, proposal.scores, strict=True)
        )
        return replace(proposal, scores=scores)

    return change


def _of_rows(share: float) -> str:
    return f"{100 * share:g} % of the rows"


def _turned(given: Materials) -> Intervention:
    found = _ours()(given)
    assert isinstance(found, EditIntervention)
    return EditIntervention(turned(found.edit, given.seed))


def _steps(count: int) -> Callable[[Materials], Intervention]:
    return lambda given: stepped(given, count)


def _matrix(name: str) -> Callable[[Materials], Intervention]:
    return lambda given: natural_gradient_of(given, name)


QUARTERS = (1, 2, 3, 4)
ABLATIONS: dict[str, Method] = {
    one.name: one
    for one in (
        Ablation("natural-gradient", OURS, _steps(1)),
        *(
            Ablation(f"steps-{count}", f"{OURS}, {count} steps", _steps(count))
            for count in (2, 3, 4, 8)
        ),
        Ablation("random-direction", f"{OURS}, random directions", _turned),
        Ablation("random-rows", f"{OURS}, random rows", _ours(random_rows)),
        Ablation("equal", f"{OURS}, equal coefficients", _ours(equal_coefficients)),
        *(
            Ablation(f"without-q{n}", f"{OURS}, blocks of quarter {n} left out",
                     _ours(without_quarter(n)))
            for n in QUARTERS
        ),
        *(
            Ablation(f"rows-{rows:g}", f"{OURS}, {_of_rows(rows)}", _ours(rows=rows))
            for rows in (0.005, 0.01, 0.2, 1.0)
        ),
        *(
            Ablation(f"damping-{value:g}", f"{OURS}, damping {value:g}", _ours(damping=value))
            for value in (0.01, 1.0)
        ),
        *(
            Ablation(f"texts-{n}", f"{OURS}, {n} texts of each label", _ours(texts=n))
            for n in (12, 25, 50, 100)
        ),
        *(
            Ablation(f"matrix-{name}", f"{OURS}, {name} projection", _matrix(name),
                     delivery="weights")
            for name in ("gate", "up", "down", "q", "k", "v", "o")
        ),
        Ablation("least-squares", "least squares",
                 lambda given: intervention_of(given, proposal_of(given, "least-squares"))),
        Ablation("paper", PAPER, _paper()),
        Ablation("paper-random-probe", f"{PAPER}, random probe", _paper(random_direction)),
        Ablation("paper-random-rows", f"{PAPER}, random region", _paper(random_rows)),
        Ablation("paper-aligned", f"{PAPER}, most aligned rows, subtracted", _paper(most_aligned)),
        *(
            Ablation(f"paper-layer-{name}", f"{PAPER}, probe of {title}", _paper(share=share))
            for name, title, share in (
                ("first", "layer 1", 0.0), ("half", "layer L/2", 0.5),
                ("three-quarters", "layer 3L/4", 0.75),
            )
        ),
        *(
            Ablation(f"paper-without-q{n}", f"{PAPER}, blocks of quarter {n} left out",
                     _paper(without_quarter(n)))
            for n in QUARTERS
        ),
        *(
            Ablation(f"paper-{source.lower()}", f"{PAPER}, direction {source}",
                     _paper(source=source))
            for source in ("W1-W0", "mean-difference")
        ),
        *(
            Ablation(f"paper-rows-{rows:g}", f"{PAPER}, {_of_rows(rows)}", _paper(rows=rows))
            for rows in (0.01, 0.2)
        ),
    )
}  # fmt: skip
