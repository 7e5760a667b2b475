"""The chosen neurons one by one: what their rows read before and after, and what they write."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from modelsurgery.checkpoint.layouts import Address
from modelsurgery.checkpoint.rows import widened
from modelsurgery.edit.changes import TensorChange
from modelsurgery.edit.region import RowScores
from modelsurgery.interpret.activity import Neuron
from modelsurgery.interpret.distributions import Chosen, chosen_cosines
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


@dataclass(frozen=True)
class Reading:
    """What a direction and neurons say in tokens."""

    direction: Ends  # tokens of the direction
    before: tuple[Ends, ...]  # of each neuron's row
    after: tuple[Ends, ...]  # of each neuron's row with the edit
    writes: tuple[Ends | None, ...]  # of what each neuron writes; None where it is not known


def most_opposed(scores: RowScores, chosen: Chosen, count: int) -> list[Neuron]:
    """The chosen neurons with the most negative cosines, those first; ties by matrix and row."""
    ranked = [
        (float(cosine), address, int(row))
        for address, rows in chosen.items()
        for cosine, row in zip(chosen_cosines(scores, address, rows), rows, strict=True)
    ]
    return [(address, row) for _, address, row in sorted(ranked)[:count]]


def read_neurons(
    model: LanguageModel,
    direction: NDArray[np.float32],
    neurons: Sequence[Neuron],
    changes: Sequence[TensorChange],
    found: Mapping[Address, Neurons],
) -> Reading:
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
    return Reading(
        next(ends),
        tuple(next(ends) for _ in before),
        tuple(next(ends) for _ in after),
        tuple(None if one is None else next(ends) for one in written),
    )


def view_neurons(
    neurons: Sequence[Neuron],
    scores: RowScores,
    reading: Reading | None,
    outputs: Mapping[Neuron, MeanOutput],
) -> tuple[NeuronView, ...]:
    """Everything that is known of each neuron."""
    return tuple(
        NeuronView(
            layer=address.block + 1,
            row=row,
            branch=address.branch,
            expert=address.expert if address.expert >= 0 else None,
            cosine=float(chosen_cosines(scores, address, np.array([row]))[0]),
            gate_reads=None if reading is None else reading.before[number],
            gate_reads_edited=None if reading is None else reading.after[number],
            writes=None if reading is None else reading.writes[number],
            mean_output=outputs.get((address, row)),
        )
        for number, (address, row) in enumerate(neurons)
    )
