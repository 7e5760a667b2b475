"""The chosen neurons one by one: what their rows read before and after, and what they write."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from modelsurgery.checkpoint.layouts import Address
from modelsurgery.checkpoint.rows import widened
from modelsurgery.edit.changes import TensorChange
from modelsurgery.edit.region import RowScores
from modelsurgery.interpret.activity import Neuron
from modelsurgery.interpret.distributions import Chosen, cosines_by_matrix
from modelsurgery.interpret.lens import Ends, read_tokens
from modelsurgery.model.activations.neurons import Neurons
from modelsurgery.model.language_model import LanguageModel

DIRECTION_TOKENS = 10
NEURON_TOKENS = 5


@dataclass(frozen=True)
class MeanOutput:
    """Mean activation of a neuron on texts that show the behavior, base and edited model."""

    base: float
    edited: float


@dataclass(frozen=True)
class NeuronView:
    """One chosen neuron."""

    layer: int  # 1..L
    row: int  # of the gate matrix
    branch: str  # which MLP of the block, as layouts call it
    expert: int | None  # which expert; None where the branch is not a mixture
    cosine: float  # of its row with the direction, before the edit
    gate_reads: Ends | None  # tokens of its row; what the neuron looks for
    gate_reads_edited: Ends | None  # the same after the edit
    writes: Ends | None  # tokens of its column of the down projection
    mean_output: MeanOutput | None  # what the down projection reads of it


class Reading(NamedTuple):
    """What a neuron's row says in tokens without and with the edit, and what the neuron writes."""

    gate_reads: Ends | None
    gate_reads_edited: Ends | None
    writes: Ends | None  # None where it is not known


UNREAD = Reading(None, None, None)


def most_opposed(scores: RowScores, chosen: Chosen, count: int) -> list[Neuron]:
    """The chosen neurons with the most negative cosines, those first; ties by matrix and row."""
    cosines = cosines_by_matrix(scores)
    ranked = sorted(
        (float(cosines[address][row]), address, int(row))
        for address, rows in chosen.items()
        for row in rows
    )
    return [(address, row) for _, address, row in ranked[:count]]


def read_neurons(
    model: LanguageModel,
    direction: NDArray[np.float32],
    neurons: Sequence[Neuron],
    changes: Sequence[TensorChange],
    found: Mapping[Address, Neurons],
) -> tuple[Ends, list[Reading]]:
    """Tokens of a direction [d] and of neurons, from one pass over the unembedding.

    Raises:
        UnsupportedModelError: the model has no final norm.
    """
    by_address = {change.address: change for change in changes}
    before, after = [], []
    for address, row in neurons:
        change = by_address[address]
        place = int(np.searchsorted(change.rows, row))
        before.append(widened(change.before[place : place + 1])[0])
        after.append(widened(change.after[place : place + 1])[0])
    columns = [found[address].writes for address, _ in neurons]
    written = [
        None if column is None else column()[row].float().cpu().numpy()
        for column, (_, row) in zip(columns, neurons, strict=True)
    ]
    vectors = [direction, *before, *after, *(one for one in written if one is not None)]
    counts = [DIRECTION_TOKENS] + [NEURON_TOKENS] * (len(vectors) - 1)
    ends = iter(read_tokens(model, torch.from_numpy(np.stack(vectors)), counts))
    return next(ends), [
        Reading(*told)
        for told in zip(
            [next(ends) for _ in before],
            [next(ends) for _ in after],
            [None if one is None else next(ends) for one in written],
            strict=True,
        )
    ]


def view_neurons(
    neurons: Sequence[Neuron],
    scores: RowScores,
    readings: Sequence[Reading],
    outputs: Mapping[Neuron, MeanOutput],
) -> tuple[NeuronView, ...]:
    """Everything that is known of each neuron."""
    cosines = cosines_by_matrix(scores)
    return tuple(
        NeuronView(
            layer=address.block + 1,
            row=row,
            branch=address.branch,
            expert=address.expert if address.expert >= 0 else None,
            cosine=float(cosines[address][row]),
            gate_reads=reading.gate_reads,
            gate_reads_edited=reading.gate_reads_edited,
            writes=reading.writes,
            mean_output=outputs.get((address, row)),
        )
        for (address, row), reading in zip(neurons, readings, strict=True)
    )
