"""Train the classifiers that ship with the package, and write what they are worth.

    python -m tools.classifiers.train --data DIR [--out DIR] [--sheet docs/judges.md]

DIR holds local copies of the public data sets, a folder each. Logistic regression on hashed
n-grams; its features may be weighted by their inverse document frequency, which is folded into the
weights. Everything is chosen on a tenth of the training texts; what the figures are made on is only
measured.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags, vstack
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from modelsurgery.evaluation.classifiers import CLASSIFIERS, read_classifier
from modelsurgery.evaluation.classifiers.features import BLOCKS, features
from modelsurgery.files.artifact import write_artifact
from modelsurgery.files.provenance import installed_versions
from tools.classifiers.figures import figures_of
from tools.classifiers.sheet import write_sheet
from tools.classifiers.sources import (
    Source,
    held_out_sources,
    middling_texts,
    training_sources,
)

PENALTIES = (2.0, 8.0)  # C of the logistic regression
RARITY_WEIGHTS = (0.0, 0.5, 1.0)  # exponent of the inverse document frequency
BALANCES = (0.5, 1.0)  # how far sources count alike: 0 by texts, 1 each the same
BAND_SHARE = 0.5  # of the middling texts that the band takes in
LARGEST = 127


@dataclass(frozen=True)
class Fitted:
    """A linear model and the setting that gave it."""

    weights: NDArray[np.float64]
    setting: dict[str, float]
    auroc: dict[str, float]

    @property
    def mean_auroc(self) -> float:
        """On validation texts, mean over sources: a small source counts as much as a large one."""
        return float(np.mean(list(self.auroc.values())))


def train(name: str, sources: Sequence[Source], middling: Sequence[str], path: Path) -> None:
    """Fit, choose, calibrate and write a classifier; the same texts give the same bytes.

    Args:
        name: what it recognizes.
        sources: labeled texts.
        middling: texts of neither class; none leaves the classifier two classes.
        path: the file to write.
    """
    parts = [source.split() for source in sources]
    fitting, validation = [one for one, _ in parts], [one for _, one in parts]
    matrices = [features(one.texts) for one in fitting]
    checks = [features(one.texts) for one in validation]
    fitted = [
        _fitted(fitting, matrices, validation, checks, setting) for setting in _settings(sources)
    ]
    best = max(fitted, key=lambda one: one.mean_auroc)
    whole, scales = _rounded(best.weights)
    weights = (whole * scales[:, None]).reshape(-1)
    margins = np.concatenate([check @ weights for check in checks])
    slope, offset = _calibration(margins, np.concatenate([one.labels for one in validation]))
    band = (0.5, 0.5)
    if middling:
        probabilities = 1 / (1 + np.exp(-(slope * (features(middling) @ weights) + offset)))
        half = float(np.quantile(np.abs(probabilities - 0.5), BAND_SHARE))
        band = (0.5 - half, 0.5 + half)
    described = {
        "name": name,
        "scales": scales.tolist(),
        "slope": slope,
        "offset": offset,
        "band": band,
        "figures": {
            "setting": best.setting,
            "validation_auroc": best.auroc,
            "training": [
                {"source": one.name, "texts": len(one.texts), "license": one.license}
                for one in sources
            ],
            "versions": {k: installed_versions()[k] for k in ("numpy", "scikit-learn")},
        },
    }
    write_artifact(path, "classifier", {"weights": whole.astype(np.int8)}, described)


def _settings(sources: Sequence[Source]) -> Iterator[dict[str, float]]:
    balances = BALANCES if len(sources) > 1 else BALANCES[:1]
    for penalty, rarity, balance in itertools.product(PENALTIES, RARITY_WEIGHTS, balances):
        yield {"penalty": penalty, "rarity_weight": rarity, "balance": balance}


def _fitted(
    fitting: Sequence[Source],
    matrices: Sequence[csr_matrix],
    validation: Sequence[Source],
    checks: Sequence[csr_matrix],
    setting: dict[str, float],
) -> Fitted:
    labels = np.concatenate([one.labels for one in fitting])
    matrix = csr_matrix(vstack(matrices))
    rarity = _rarity(matrix) ** setting["rarity_weight"]
    regression = LogisticRegression(C=setting["penalty"], solver="liblinear", random_state=0)
    sample_weights = _sample_weights(fitting, setting["balance"])
    regression.fit(matrix @ diags(rarity), labels, sample_weight=sample_weights)
    weights = regression.coef_[0] * rarity
    auroc = {
        one.name: float(roc_auc_score(one.labels, check @ weights))
        for one, check in zip(validation, checks, strict=True)
    }
    return Fitted(weights, setting, auroc)


def _sample_weights(sources: Sequence[Source], balance: float) -> NDArray[np.float64]:
    """Both labels of a source count alike; sources count by size^(1 - balance). The mean is one."""
    weights = []
    for source in sources:
        labels = np.asarray(source.labels)
        share = np.where(labels == 1, labels.mean(), 1 - labels.mean())
        weights.append(0.5 / share * len(labels) ** -balance)
    joined = np.concatenate(weights)
    return np.asarray(joined / joined.mean())


def _rarity(matrix: csr_matrix) -> NDArray[np.float64]:
    """Inverse document frequency, 1 + ln((1 + n) / (1 + texts with the feature)), mean one."""
    texts = np.bincount(matrix.indices, minlength=matrix.shape[1])
    rarity = 1 + np.log((1 + matrix.shape[0]) / (1 + texts))
    return np.asarray(rarity / rarity.mean())


def _rounded(weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights [blocks, buckets] as whole numbers of -127..127, and the scale of each block."""
    blocks = weights.reshape(len(BLOCKS), -1)
    # A few large weights would make the steps of all others coarse, so they are cut off.
    scales = np.quantile(np.abs(blocks), 0.9999, axis=1) / LARGEST
    scales = scales.astype(np.float32).astype(np.float64)
    return np.clip(np.rint(blocks / scales[:, None]), -LARGEST, LARGEST), scales


def _calibration(margins: NDArray[np.float64], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Slope and offset of a logistic curve, labels weighted alike (Platt 1999)."""
    curve = LogisticRegression(C=1e6, class_weight="balanced").fit(margins[:, None], labels)
    return float(curve.coef_[0, 0]), float(curve.intercept_[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both classifiers and write the sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--sheet", type=Path, default=Path("docs/judges.md"))
    options = parser.parse_args(arguments)
    measured = {}
    for name in CLASSIFIERS:
        path = options.out / f"{name}.safetensors"
        middling = middling_texts(options.data) if name == "negativity" else []
        train(name, training_sources(name, options.data), middling, path)
        classifier = read_classifier(path)
        measured[name] = (
            classifier,
            [
                figures_of(source, classifier.probabilities(source.texts))
                for source in held_out_sources(name, options.data)
            ],
        )
    write_sheet(options.sheet, measured)


if __name__ == "__main__":
    main()
