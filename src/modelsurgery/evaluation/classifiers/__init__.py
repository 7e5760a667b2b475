"""Small classifiers that ship with the package: linear models over hashed n-grams.

They judge without a network, a model hub or a GPU, in a fraction of a millisecond a text. What
they are worth is in docs/judges.md, which their training script writes.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsurgery.errors import ArtifactError
from modelsurgery.files.artifact import read_artifact

__all__ = ["CLASSIFIERS", "Classifier", "load_classifier", "read_classifier"]

CLASSIFIERS = ("negativity", "toxicity")


@dataclass(frozen=True)
class Classifier:
    """P(behavior | text) = σ(slope · (features · weights) + offset)."""

    name: str  # what it recognizes
    version: str  # beginning of the SHA-256 of its file
    weights: NDArray[np.float32]  # [2 · BUCKETS] f32
    slope: float  # of the calibration
    offset: float  # of the calibration
    # Probabilities between which a text is neither; empty at 0.5 where there are two classes only.
    band: tuple[float, float]
    figures: dict[str, Any]  # what was measured when it was trained

    def probabilities(self, texts: list[str]) -> NDArray[np.float64]:
        """Probability [n] f64 that each text shows the behavior."""
        # Here, because scikit-learn takes a second.
        from modelsurgery.evaluation.classifiers.features import features

        margins = np.asarray(features(texts) @ self.weights, dtype=np.float64)
        calibrated: NDArray[np.float64] = 1 / (1 + np.exp(-(self.slope * margins + self.offset)))
        return calibrated


@cache
def load_classifier(name: str) -> Classifier:
    """A classifier that ships with the package, one of CLASSIFIERS."""
    path = resources.files(__package__) / f"{name}.safetensors"
    with resources.as_file(path) as file:
        return read_classifier(file)


def read_classifier(path: Path) -> Classifier:
    """A classifier from its file.

    Raises:
        ArtifactError: missing, damaged, or not a classifier.
    """
    tensors, described = read_artifact(path, "classifier")
    try:
        scales = np.asarray(described["scales"], np.float32)
        weights = tensors["weights"].astype(np.float32) * scales[:, None]
        low, high = described["band"]
        return Classifier(
            str(described["name"]),
            hashlib.sha256(path.read_bytes()).hexdigest()[:12],
            weights.reshape(-1),
            float(described["slope"]),
            float(described["offset"]),
            (float(low), float(high)),
            dict(described["figures"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{path}: not a readable classifier ({type(error).__name__}: {error}); install "
            "modelsurgery again"
        ) from error
