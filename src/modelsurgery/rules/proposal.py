"""What a rule says of every gate row, and the edit that the best rows make."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from modelsurgery.checkpoint.layouts import GateLayout, GateMatrix
from modelsurgery.edit.edit import Edit, RowUpdate
from modelsurgery.edit.effects import Prediction
from modelsurgery.edit.region import PAPER_ROWS, select_rows
from modelsurgery.errors import CheckpointError
from modelsurgery.rules.rule_names import Rule


@dataclass(frozen=True)
class RowProposal:
    """What a rule says of every gate row of a model."""

    rule: Rule  # its name
    gates: tuple[GateMatrix, ...]  # all gate matrices of the checkpoint, G of them
    # Per gate matrix, what is added to its rows, [k, d] float32 each.
    directions: tuple[NDArray[np.float32], ...]
    # Per gate matrix, [rows]; the rows with the highest ones are chosen.
    scores: tuple[NDArray[np.float64], ...]
    # Per gate matrix, [k, rows] float64: how much of each direction a chosen row gets, for an edit
    # away from the behavior, up to one common factor.
    coefficients: tuple[NDArray[np.float64], ...]
    mean_row_norm: float  # mean L2 norm of all gate rows, the unit of strength
    # Per gate matrix, [k, rows]: predicted rise of what is wanted at the coefficients, in parts of
    # directions that add up, nats per token; None where the rule predicts nothing.
    gains: tuple[NDArray[np.float64], ...] | None = None
    # Per gate matrix, [k, rows]: predicted KL of the same change, nats per token.
    divergences: tuple[NDArray[np.float64], ...] | None = None
    layout: GateLayout | None = None  # the layout that a user described, if any

    def edit(
        self,
        rows: float | int = PAPER_ROWS,
        *,
        layers: tuple[int, int] | None = None,
        per_layer: bool = False,
        strength: float = 1.0,
    ) -> Edit:
        """The edit of the best rows.

        Args:
            rows: a share of all gate rows (float) or a count (int).
            layers: first and last layer to edit, 1..L; None is all.
            per_layer: take the same share of the rows of every matrix.
            strength: portable; positive is away from the behavior. 1 adds to the chosen rows, in
                the root mean square, vectors as long as the average gate row.

        Raises:
            RecipeError: no such number of rows or window of layers.
            CheckpointError: nothing to add to the chosen rows.
        """
        region = select_rows(
            self.gates,
            self.scores,
            rows,
            mean_row_norm=self.mean_row_norm,
            layers=layers,
            per_layer=per_layer,
        )
        places = {gate.address: index for index, gate in enumerate(self.gates)}
        updates: list[RowUpdate] = []
        total = 0.0
        for gate, chosen in zip(region.gates, region.rows, strict=True):
            index = places[gate.address]
            added = self.coefficients[index][:, chosen]
            lengths = added.T @ self.directions[index].astype(np.float64)
            total += float(np.square(lengths).sum())
            for number, direction in enumerate(self.directions[index]):
                update = RowUpdate(
                    gate.tensor,
                    gate.address,
                    (gate.rows, gate.hidden_size),
                    gate.dtype,
                    chosen.astype(np.int32),
                    added[number].astype(np.float32),
                    direction,
                    predicted=self._predicted(index, number, chosen),
                )
                updates.append(update)
        root_mean_square = float(np.sqrt(total / region.row_count))
        if not (root_mean_square > 0 and np.isfinite(root_mean_square)):
            raise CheckpointError(
                "the chosen gate rows have no measurable effect; the weights are damaged (fetch "
                "them again), or the texts of both labels are the same"
            )
        unit = self.mean_row_norm / root_mean_square  # coefficients at strength 1 over these
        made = Edit(tuple(updates), 1.0, 1 / unit, region.candidate_rows, layout=self.layout)
        return replace(made.scaled(strength * unit), strength=strength)

    def _predicted(self, index: int, number: int, rows: NDArray[np.int64]) -> Prediction | None:
        """What the rule expects of rows of a matrix and one of its directions."""
        if self.gains is None or self.divergences is None:
            return None
        parts = (some[index][number, rows] for some in (self.gains, self.divergences))
        return Prediction(*(part.astype(np.float32) for part in parts))
