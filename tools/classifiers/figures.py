"""What a classifier is worth: figures on texts that it was not trained on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from tools.classifiers.sources import Source

BINS = 15
RESAMPLES = 400


def figures_of(source: Source, probabilities: NDArray[np.float64]) -> dict[str, Any]:
    """AUROC with its 95 % interval, accuracy at 0.5, calibration error, share of label 1, count."""
    labels = np.asarray(source.labels)
    low, high = _auroc_interval(labels, probabilities)
    found: dict[str, Any] = {
        "source": source.name,
        "texts": len(labels),
        "behavior_share": float(labels.mean()),
        "auroc": float(roc_auc_score(labels, probabilities)),
        "auroc_low": low,
        "auroc_high": high,
        "accuracy": float(((probabilities >= 0.5) == labels).mean()),
        "calibration_error": calibration_error(labels, probabilities),
    }
    if source.groups is not None:
        found["groups"] = _by_group(labels, probabilities, source.groups)
    return found


def calibration_error(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Expected calibration error, Σ_b n_b / n · |mean label - mean probability| over 15 equal bins.

    Guo et al. (2017), On Calibration of Modern Neural Networks, for the class with label 1.
    """
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gaps = [
        (bins == one).mean() * abs(labels[bins == one].mean() - probabilities[bins == one].mean())
        for one in np.unique(bins)
    ]
    return float(sum(gaps))


def _auroc_interval(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> tuple[float, float]:
    """Percentile bootstrap over texts, of each label apart, so that none is without both."""
    random = np.random.default_rng(0)
    values, places = np.unique(probabilities, return_inverse=True)  # sorted once, for all samples
    parts = [places[labels == label] for label in (0, 1)]
    found = []
    for _ in range(RESAMPLES):
        opposite, shows = (
            np.bincount(random.choice(part, len(part)), minlength=len(values)) for part in parts
        )
        # Pairs of either label in which the one with label 1 is ranked higher; ties count half.
        higher = shows * (np.cumsum(opposite) - opposite / 2)
        found.append(higher.sum() / (shows.sum() * opposite.sum()))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def _by_group(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], groups: Sequence[str]
) -> dict[str, dict[str, float | int | None]]:
    found: dict[str, dict[str, float | int | None]] = {}
    names = np.asarray(groups)
    for group in sorted(set(groups)):
        rows = names == group
        both = len(set(labels[rows])) == 2
        found[group] = {
            "texts": int(rows.sum()),
            "auroc": float(roc_auc_score(labels[rows], probabilities[rows])) if both else None,
            "neutral_called_behavior": _share(probabilities[rows & (labels == 0)]),
            "hate_called_behavior": _share(probabilities[rows & (labels == 1)]),
        }
    return found


def _share(probabilities: NDArray[np.float64]) -> float | None:
    return float((probabilities >= 0.5).mean()) if len(probabilities) else None
