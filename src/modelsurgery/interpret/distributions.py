"""Distributions for figures: rows by layer, cosines, counts of active neurons, the probe's ROC."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from modelsurgery.checkpoint.layouts import Address, GateMatrix
from modelsurgery.edit.region import RowScores, select_region

BINS = 40
MOST_POINTS = 101
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


@dataclass(frozen=True)
class Roc:
    """The probe's receiver operating characteristic."""

    false_positive_rate: tuple[float, ...]  # ascending, from 0 to 1
    true_positive_rate: tuple[float, ...]  # at the same thresholds
    auroc: float  # area under it, of all texts
    texts: int


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


def roc_of(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Roc:
    """The curve of a probe's logits [n] on texts with labels [n] of 0 and 1, both of them there."""
    false, true, _ = roc_curve(labels, logits)
    kept = np.unique(np.linspace(0, len(false) - 1, MOST_POINTS).round().astype(np.int64))
    area = float(roc_auc_score(labels, logits))
    return Roc(tuple(false[kept].tolist()), tuple(true[kept].tolist()), area, len(labels))


def probe_loss(logits: NDArray[np.float32], label: int) -> float:
    """Mean cross-entropy in nats of a probe's logits [n] on texts of one label."""
    signed = logits.astype(np.float64) * (1 if label == 1 else -1)
    return float(np.logaddexp(0.0, -signed).mean())


def cosine_with_mean(direction: NDArray[np.float32], features: NDArray[np.float32]) -> float:
    """Cosine of a direction [d] with the mean of features [n, d]; 0 where either is zero."""
    mean = features.mean(0, dtype=np.float64)
    norms = float(np.linalg.norm(mean) * np.linalg.norm(direction))
    return float(mean @ direction) / norms if norms else 0.0


def _counts(values: NDArray[np.generic], edges: NDArray[np.float64]) -> tuple[int, ...]:
    return tuple(np.histogram(values, edges)[0].tolist())
