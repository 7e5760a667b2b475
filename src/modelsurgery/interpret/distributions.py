"""Distributions for figures: rows by layer, cosines, counts of active neurons."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsurgery.checkpoint.layouts import Address, GateMatrix
from modelsurgery.edit.region import RowScores, select_region

BINS = 40
Chosen = Mapping[Address, NDArray[np.int64]]  # row numbers, ascending, by matrix


@dataclass(frozen=True)
class LayerRows:
    """Gate rows of a layer, 1..L: how many were chosen, and how many there are."""

    layer: int
    chosen: int
    rows: int


@dataclass(frozen=True)
class Cosines:
    """Histogram of the cosines of gate rows with the direction."""

    edges: tuple[float, ...]  # of n bins, n + 1
    all: tuple[int, ...]
    chosen: tuple[int, ...]
    random: tuple[int, ...]  # of as many random rows


@dataclass(frozen=True)
class Counts:
    """Histogram of the number of active chosen neurons at a token, base and edited model."""

    edges: tuple[float, ...]
    base: tuple[int, ...]
    edited: tuple[int, ...]


def rows_by_layer(chosen: Chosen, gates: Sequence[GateMatrix]) -> tuple[LayerRows, ...]:
    """Chosen and all gate rows of every layer."""
    there: Counter[int] = Counter()
    mine: Counter[int] = Counter()
    for gate in gates:
        there[gate.block + 1] += gate.rows
        mine[gate.block + 1] += len(chosen.get(gate.address, ()))
    return tuple(LayerRows(layer, mine[layer], there[layer]) for layer in sorted(there))


def cosine_histogram(scores: RowScores, chosen: Chosen, seed: int) -> Cosines:
    """Cosines with one direction of all rows, the chosen ones (at least one), and random ones."""
    by_matrix = cosines_by_matrix(scores)
    mine = np.concatenate([by_matrix[address][rows] for address, rows in chosen.items()])
    everything = np.concatenate([*by_matrix.values()])
    random = select_region(scores, len(mine), selection="random", seed=seed).scores
    limit = max(0.01, math.ceil(100 * float(np.abs(everything).max())) / 100)
    edges = np.linspace(-limit, limit, BINS + 1)
    parts = (everything, mine, np.concatenate(random))
    return Cosines(tuple(edges.tolist()), *(_counts(one, edges) for one in parts))


def cosines_by_matrix(scores: RowScores) -> dict[Address, NDArray[np.float32]]:
    """Cosines [rows] of each matrix with the only direction."""
    return {gate.address: one[0] for gate, one in zip(scores.gates, scores.cosines, strict=True)}


def count_histograms(
    pairs: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> tuple[Counts, ...]:
    """Histograms of counts, base and edited, of several kinds of text, with the same edges."""
    most = max((int(one.max()) for pair in pairs for one in pair if len(one)), default=0)
    width = -(-(most + 1) // BINS)  # a whole number, or bins would hold different numbers of counts
    edges = np.arange(0, most + 1 + width, width, dtype=np.float64)
    return tuple(
        Counts(tuple(edges.tolist()), _counts(base, edges), _counts(edited, edges))
        for base, edited in pairs
    )


def cosine_with_mean(direction: NDArray[np.float32], features: NDArray[np.float32]) -> float:
    """Cosine of a direction [d] with the mean of features [n, d]; 0 where either is zero."""
    mean = features.mean(0, dtype=np.float64)
    norms = float(np.linalg.norm(mean) * np.linalg.norm(direction))
    return float(mean @ direction) / norms if norms else 0.0


def _counts(values: NDArray[np.generic], edges: NDArray[np.float64]) -> tuple[int, ...]:
    return tuple(np.histogram(values, edges)[0].tolist())
