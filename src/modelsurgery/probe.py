"""The linear probe: which direction in the hidden states goes with the behavior.

P(y | x̄) = softmax(W x̄ + b) with W [2, d]; W[1] belongs to the behavior, W[0] to its opposite.
What detects a behavior best is not what steers it best, so the direction that is added to gate
rows is chosen apart from the fit (`Probe.direction`).
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modelsurgery.artefact import read_artefact, write_artefact
from modelsurgery.errors import ArtefactError, RecipeError
from modelsurgery.provenance import Provenance, provenance
from modelsurgery.texts import LabelledText, texts_sha256

Fit = Literal["adam", "logistic", "mean-difference"]
DirectionRule = Literal["W1", "W1-W0", "mean-difference"]
FITS: tuple[Fit, ...] = get_args(Fit)
DIRECTION_RULES: tuple[DirectionRule, ...] = get_args(DirectionRule)

ADAM_LEARNING_RATE = 1e-4
ADAM_BATCH = 16
ADAM_EPOCHS = 9
PICKLE_SUFFIXES = {".pt", ".pth", ".bin"}


@dataclass(frozen=True)
class ProbeMetrics:
    """How well a probe tells the behavior from its opposite, on texts it was not fitted on.

    Attributes:
        accuracy: share of held-out texts classified right, 0..1.
        auroc: area under the ROC curve, 0..1.
        control_accuracy: the same accuracy after fitting on shuffled labels; near 0.5 when the
            probe has learned the behavior and not the texts.
        control_auroc: the same for the area.
        train_texts: texts fitted on.
        held_out_texts: texts measured on.
    """

    accuracy: float
    auroc: float
    control_accuracy: float
    control_auroc: float
    train_texts: int
    held_out_texts: int


@dataclass(frozen=True)
class Probe:
    """A linear probe of one layer.

    Attributes:
        weight: [2, d] float32; row 1 for the behavior, row 0 for its opposite.
        bias: [2] float32.
        layer: 1..L; L is after the final norm. None in probes of others that do not say.
        fit: how the weights were found; None in probes of others.
        mean_difference: [d] float32, mean feature of behavior texts minus that of their
            opposites; None in probes of others.
        metrics: held-out measurements, if any were made.
        provenance: where it comes from.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    layer: int | None = None
    fit: Fit | None = None
    mean_difference: torch.Tensor | None = None
    metrics: ProbeMetrics | None = None
    provenance: Provenance = field(default_factory=provenance)

    def direction(self, rule: DirectionRule) -> torch.Tensor:
        """The direction that goes with the behavior, [d] float32.

        `W1` is the paper's; `W1-W0` leaves out what both rows share; `mean-difference` is the
        difference of the mean features, whatever the fit.

        Raises:
            RecipeError: an unknown rule, or a mean difference that the probe does not have.
        """
        if rule == "W1":
            return self.weight[1]
        if rule == "W1-W0":
            return self.weight[1] - self.weight[0]
        if rule != "mean-difference":
            raise RecipeError(f"direction rule {rule!r}; expected {', '.join(DIRECTION_RULES)}")
        if self.mean_difference is None:
            raise RecipeError("this probe holds no mean difference; use W1 or W1-W0")
        return self.mean_difference

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logit of the behavior against its opposite, [n] float32, for features [n, d]."""
        return (features @ self.weight.T + self.bias) @ torch.tensor([-1.0, 1.0])


def fit_probe(
    features: torch.Tensor,
    labels: torch.Tensor,
    held_out_features: torch.Tensor,
    held_out_labels: torch.Tensor,
    *,
    layer: int,
    fit: Fit = "adam",
    seed: int = 0,
    inputs: dict[str, str] | None = None,
) -> Probe:
    """Fit a probe and measure it on held-out features, beside a shuffled-label control.

    Args:
        features: [n, d] float32, mean-pooled hidden states.
        labels: [n] int64 of 0 and 1.
        held_out_features: [m, d] float32.
        held_out_labels: [m] int64 of 0 and 1.
        layer: where the features come from, 1..L.
        fit: `adam` is the paper's recipe (cross-entropy, Adam 1e-4, batch 16, 9 epochs);
            `logistic` scikit-learn's logistic regression, its regularisation chosen by
            five-fold cross-validation on the train part; `mean-difference` the difference of
            the class means, with the boundary half-way.
        seed: order of the batches, initial weights, folds and the control's shuffle.
        inputs: hashes for the provenance.

    Raises:
        RecipeError: an unknown fit.
    """
    if fit not in FITS:
        raise RecipeError(f"fit {fit!r}; expected one of {', '.join(FITS)}")
    weight, bias = _fit(features, labels, fit, seed)
    probe = Probe(weight, bias, layer, fit, _mean_difference(features, labels))
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    control = Probe(*_fit(features, shuffled, fit, seed))
    accuracy, auroc = _measure(probe, held_out_features, held_out_labels)
    control_accuracy, control_auroc = _measure(control, held_out_features, held_out_labels)
    metrics = ProbeMetrics(
        accuracy, auroc, control_accuracy, control_auroc, len(labels), len(held_out_labels)
    )
    origin = provenance(seed=seed, inputs=inputs, settings={"layer": layer, "fit": fit})
    return Probe(weight, bias, layer, fit, probe.mean_difference, metrics, origin)


def fit_probe_on_texts(
    features: torch.Tensor,
    train: Sequence[LabelledText],
    held_out: Sequence[LabelledText],
    *,
    layer: int,
    fit: Fit = "adam",
    seed: int = 0,
) -> Probe:
    """`fit_probe` for features [n + m, d] of n texts to fit on followed by m held-out ones."""
    texts = [*train, *held_out]
    labels = torch.tensor([text.label for text in texts])
    count = len(train)
    return fit_probe(
        features[:count],
        labels[:count],
        features[count:],
        labels[count:],
        layer=layer,
        fit=fit,
        seed=seed,
        inputs={"texts": texts_sha256(texts)},
    )


def _fit(
    features: torch.Tensor, labels: torch.Tensor, fit: Fit, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    if fit == "adam":
        return _fit_adam(features, labels, seed)
    if fit == "logistic":
        return _fit_logistic(features, labels, seed)
    direction = _mean_difference(features, labels) / 2
    middle = (features[labels == 1].mean(0) + features[labels == 0].mean(0)) / 2
    offset = direction @ middle
    return torch.stack([-direction, direction]), torch.stack([offset, -offset])


def _fit_adam(
    features: torch.Tensor, labels: torch.Tensor, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    width = features.shape[1]
    bound = width**-0.5  # torch.nn.Linear's initial weights
    weight = torch.empty(2, width).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(2).uniform_(-bound, bound, generator=generator)
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.Adam(parameters, lr=ADAM_LEARNING_RATE)
    for _ in range(ADAM_EPOCHS):
        for rows in torch.randperm(len(labels), generator=generator).split(ADAM_BATCH):
            logits = torch.nn.functional.linear(features[rows], weight, bias)
            loss = torch.nn.functional.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return weight.detach(), bias.detach()


def _fit_logistic(
    features: torch.Tensor, labels: torch.Tensor, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    folds = min(5, int(labels.bincount().min()))
    regression = LogisticRegressionCV(
        Cs=np.logspace(-4, 2, 7),
        cv=folds,
        scoring="neg_log_loss",
        max_iter=1000,
        random_state=seed,
        l1_ratios=(0.0,),
        use_legacy_attributes=False,
    )
    pipeline = make_pipeline(StandardScaler(), regression)
    pipeline.fit(features.double().numpy(), labels.numpy())
    scaler = pipeline[0]
    coefficients = regression.coef_[0] / scaler.scale_
    intercept = regression.intercept_[0] - coefficients @ scaler.mean_
    half = torch.from_numpy(coefficients / 2).float()
    offset = torch.tensor(intercept / 2, dtype=torch.float32)
    return torch.stack([-half, half]), torch.stack([-offset, offset])


def _mean_difference(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return features[labels == 1].mean(0) - features[labels == 0].mean(0)


def _measure(probe: Probe, features: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    logits = probe.logits(features)
    accuracy = ((logits > 0) == (labels == 1)).float().mean().item()
    return accuracy, float(roc_auc_score(labels.numpy(), logits.numpy()))


def save_probe(probe: Probe, path: Path) -> None:
    """Write a probe as a .safetensors file, whole or not at all."""
    description = {
        "layer": probe.layer,
        "fit": probe.fit,
        "metrics": vars(probe.metrics) if probe.metrics else None,
        "provenance": probe.provenance.to_json(),
    }
    tensors = {"weight": probe.weight, "bias": probe.bias}
    if probe.mean_difference is not None:
        tensors["mean_difference"] = probe.mean_difference
    write_artefact(path, "probe", tensors, description)


def load_probe(path: Path | str) -> Probe:
    """Read a probe: ours (.safetensors), or the paper's authors' (.pt, a pickled state dict).

    Pickles are read with `weights_only=True`, which runs no code.

    Raises:
        ArtefactError: missing, damaged, not a probe, or with weights that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtefactError(f"no probe at {path}; make one with `surgery probe`")
    if path.suffix in PICKLE_SUFFIXES:
        return _checked(_load_authors_probe(path), path)
    tensors, description = read_artefact(path, "probe")
    try:
        metrics = description["metrics"]
        probe = Probe(
            tensors["weight"],
            tensors["bias"],
            description["layer"],
            description["fit"],
            tensors.get("mean_difference"),
            ProbeMetrics(**metrics) if metrics else None,
            Provenance.from_json(description["provenance"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(
            f"{path}: not a sound probe ({error}); make one with `surgery probe`"
        ) from error
    return _checked(probe, path)


def _load_authors_probe(path: Path) -> Probe:
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        return Probe(state["mlp.weight"].float(), state["mlp.bias"].float())
    except (
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        raise ArtefactError(
            f"{path}: not a probe; expected a state dict with mlp.weight [2, d] and mlp.bias [2]"
        ) from error


def _checked(probe: Probe, path: Path) -> Probe:
    layer_is_sound = probe.layer is None or (type(probe.layer) is int and probe.layer >= 1)
    if not layer_is_sound or (probe.fit is not None and probe.fit not in FITS):
        raise ArtefactError(
            f"{path}: layer {probe.layer!r}, fit {probe.fit!r}; expected a layer from 1 and one "
            f"of {', '.join(FITS)}"
        )
    width = probe.weight.shape[-1] if probe.weight.dim() else 0
    shapes = [("weight", probe.weight, (2, width)), ("bias", probe.bias, (2,))]
    if probe.mean_difference is not None:
        shapes.append(("mean_difference", probe.mean_difference, (width,)))
    for name, tensor, shape in shapes:
        sound = tuple(tensor.shape) == shape and tensor.dtype == torch.float32
        if not sound or not tensor.isfinite().all():
            raise ArtefactError(
                f"{path}: {name} has shape {list(tensor.shape)} and type {tensor.dtype}; expected "
                f"finite float32 values of shape {list(shape)}"
            )
    return probe
