"""The linear probe: which direction in the hidden states goes with the behavior.

P(y | x̄) = softmax(W x̄ + b) with W [2, d]; W[1] belongs to the behavior, W[0] to its opposite.
What detects a behavior best is not what steers it best, so the direction that is added to gate
rows is chosen apart from the fit (`Probe.direction`).
"""

import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelsurgery.edit.option_names import DIRECTION_SOURCES as DIRECTION_SOURCES
from modelsurgery.edit.option_names import FITS as FITS
from modelsurgery.edit.option_names import DirectionSource as DirectionSource
from modelsurgery.edit.option_names import Fit as Fit
from modelsurgery.errors import ArtifactError, RecipeError
from modelsurgery.files.artifact import read_artifact, write_artifact
from modelsurgery.files.provenance import Provenance

PICKLE_SUFFIXES = {".pt", ".pth", ".bin"}


@dataclass(frozen=True)
class ProbeMetrics:
    """How well a probe tells the behavior from its opposite, on texts it was not fitted on."""

    accuracy: float  # share of held-out texts classified right, 0..1
    auroc: float  # area under the ROC curve, 0..1
    # The same accuracy after fitting on shuffled labels; near 0.5 when the probe has learned the
    # behavior and not the texts.
    control_accuracy: float
    control_auroc: float  # the same for the area
    train_texts: int  # texts fitted on
    test_texts: int  # texts measured on


@dataclass(frozen=True)
class Probe:
    """A linear probe of the hidden states of one layer.

    Attributes:
        weight: [2, d] float32; row 1 for the behavior, row 0 for its opposite.
        bias: [2] float32.
        layer: layer 1..L, where L is after the final norm; None if a foreign file does not say.
        fit: how the weights were fitted; None in foreign files.
        mean_difference: [d] float32, mean feature of texts that show the behavior minus the mean
            feature of their opposites; None in foreign files.
        metrics: accuracy and AUROC on held-out texts, if measured.
        provenance: seed, settings, versions and hashes of the inputs.

    Example:
        >>> load_probe("probe.safetensors").direction("mean-difference").shape
        (160,)
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    layer: int | None = None
    fit: Fit | None = None
    mean_difference: NDArray[np.float32] | None = None
    metrics: ProbeMetrics | None = None
    provenance: Provenance = field(default_factory=Provenance)

    def direction(self, source: str) -> NDArray[np.float32]:
        """Return the direction that goes with the behavior, [d] float32.

        Args:
            source: `W1` as in the paper, `W1-W0` for the difference of both rows, or
                `mean-difference` for the difference of the mean features.

        Raises:
            RecipeError: the source is unknown, or the probe has no mean difference.
        """
        if source == "W1":
            return self.row(1)
        if source == "W1-W0":
            return self.row(1) - self.row(0)
        if source != "mean-difference":
            raise RecipeError(
                f"direction source {source!r}; expected {', '.join(DIRECTION_SOURCES)}"
            )
        if self.mean_difference is None:
            raise RecipeError("this probe has no mean difference; use W1 or W1-W0")
        return self.mean_difference

    @property
    def default_source(self) -> DirectionSource:
        """Default for `direction`: `mean-difference`, or `W1` if the probe has none."""
        return "W1" if self.mean_difference is None else "mean-difference"

    def row(self, label: int) -> NDArray[np.float32]:
        """Return weight row `label`, [d] float32."""
        row: NDArray[np.float32] = self.weight[label]
        return row

    def logits(self, features: ArrayLike) -> NDArray[np.float32]:
        """Return the logits of the behavior against its opposite, [n] float32.

        Args:
            features: [n, d], mean-pooled hidden states of the probe's layer.
        """
        both: NDArray[np.float32] = np.asarray(features, np.float32) @ self.weight.T + self.bias
        return both[:, 1] - both[:, 0]


def probe_cosine(first: Probe, second: Probe) -> float:
    """Cosine of the default directions of two probes; 0 where either is zero.

    Raises:
        RecipeError: the probes are of models of different width.
    """
    one, two = (probe.direction(probe.default_source) for probe in (first, second))
    if one.shape != two.shape:
        raise RecipeError(
            f"the probes have {len(one)} and {len(two)} values; expected probes of one model"
        )
    norms = float(np.linalg.norm(one) * np.linalg.norm(two))
    return float(one @ two) / norms if norms else 0.0


def save_probe(probe: Probe, path: Path | str) -> None:
    """Write a probe to a safetensors file. The file appears only when it is complete.

    Args:
        probe: the probe.
        path: file to write.

    Raises:
        StorageError: the file cannot be written.

    Example:
        >>> save_probe(load_probe("probe.safetensors"), "copy.safetensors")
    """
    description = {
        "layer": probe.layer,
        "fit": probe.fit,
        "metrics": vars(probe.metrics) if probe.metrics else None,
        "provenance": probe.provenance.to_json(),
    }
    tensors: dict[str, NDArray[Any]] = {"weight": probe.weight, "bias": probe.bias}
    if probe.mean_difference is not None:
        tensors["mean_difference"] = probe.mean_difference
    write_artifact(path, "probe", tensors, description)


def load_probe(path: Path | str) -> Probe:
    """Read a probe from a safetensors file, or from the paper authors' pickled state dict (.pt).

    Pickles are read with `weights_only=True`, which runs no code.

    Args:
        path: file to read.

    Returns:
        The probe.

    Raises:
        ArtifactError: the file is missing, damaged or not a probe, or its weights are not finite.

    Example:
        >>> probe = load_probe("probe.safetensors")
    """
    path = Path(path)
    if path.suffix in PICKLE_SUFFIXES and path.is_file():
        return _checked(_load_authors_probe(path), path)
    tensors, description = read_artifact(path, "probe")
    try:
        metrics = description["metrics"]
        probe = Probe(
            tensors["weight"],
            tensors["bias"],
            description["layer"],
            description["fit"],
            tensors.get("mean_difference"),
            ProbeMetrics(**_current(metrics)) if metrics else None,
            Provenance.from_json(description["provenance"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path}: not a valid probe ({error}); make one with `surgery probe`"
        ) from error
    return _checked(probe, path)


def _current(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics of a file, of earlier versions too, as this version calls them."""
    earlier = {"held_out_texts": "test_texts"}  # earlier name
    return {earlier.get(name, name): value for name, value in metrics.items()}


def probe_json(probe: Probe) -> dict[str, Any]:
    """A probe for people: everything but its weights."""
    opposite, behavior = (float(np.linalg.norm(probe.row(label))) for label in (0, 1))
    return {
        "kind": "probe",
        "hidden_size": probe.weight.shape[1],
        "layer": probe.layer,
        "fit": probe.fit,
        "norm_W0": opposite,
        "norm_W1": behavior,
        "cosine_W0_W1": float(probe.row(0) @ probe.row(1)) / (opposite * behavior),
        "metrics": asdict(probe.metrics) if probe.metrics else None,
        "provenance": probe.provenance.to_json(),
    }


def _load_authors_probe(path: Path) -> Probe:
    import torch  # seconds; all else here does without

    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        return Probe(state["mlp.weight"].float().numpy(), state["mlp.bias"].float().numpy())
    except (
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        raise ArtifactError(
            f"{path}: not a probe; expected a state dict with mlp.weight [2, d] and mlp.bias [2]"
        ) from error


def _checked(probe: Probe, path: Path) -> Probe:
    layer_is_sound = probe.layer is None or (type(probe.layer) is int and probe.layer >= 1)
    if not layer_is_sound or (probe.fit is not None and probe.fit not in FITS):
        raise ArtifactError(
            f"{path}: layer {probe.layer!r}, fit {probe.fit!r}; expected a layer from 1 and one "
            f"of {', '.join(FITS)}"
        )
    width = probe.weight.shape[-1] if probe.weight.ndim else 0
    shapes = [("weight", probe.weight, (2, width)), ("bias", probe.bias, (2,))]
    if probe.mean_difference is not None:
        shapes.append(("mean_difference", probe.mean_difference, (width,)))
    for name, tensor, shape in shapes:
        sound = tuple(tensor.shape) == shape and tensor.dtype == np.float32
        if not sound or not np.isfinite(tensor).all():
            raise ArtifactError(
                f"{path}: {name} has shape {list(tensor.shape)} and type {tensor.dtype}; expected "
                f"finite float32 values of shape {list(shape)}"
            )
    return probe
