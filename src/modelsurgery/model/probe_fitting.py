"""Fitting a probe to features of labeled texts, and measuring it on held-out ones.

The only part of a probe's life that needs torch: choosing rows and editing files does without.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from modelsurgery.data.texts import LabeledText, texts_sha256
from modelsurgery.edit.probe import FITS, Fit, Probe, ProbeMetrics
from modelsurgery.errors import RecipeError
from modelsurgery.files.provenance import Provenance

ADAM_LEARNING_RATE = 1e-4
ADAM_BATCH = 16
ADAM_EPOCHS = 9


def fit_probe(
    features: torch.Tensor,
    labels: torch.Tensor,
    test_features: torch.Tensor,
    test_labels: torch.Tensor,
    *,
    layer: int,
    fit: Fit = "adam",
    seed: int = 0,
    inputs: dict[str, str] | None = None,
) -> Probe:
    """Fit a probe and measure it on held-out features, with shuffled labels as a control.

    Args:
        features: [n, d] float32, mean-pooled hidden states.
        labels: [n] int64, 0 or 1.
        test_features: [m, d] float32.
        test_labels: [m] int64, 0 or 1.
        layer: layer of the features, 1..L.
        fit: `adam` as in the paper (cross-entropy, Adam 1e-4, batch 16, 9 epochs), `logistic` for
            scikit-learn's logistic regression with the regularization chosen by five-fold
            cross-validation, or `mean-difference` for the difference of the class means, with the
            boundary halfway.
        seed: seed of batches, initial weights, folds and the shuffled control.
        inputs: hashes of the inputs, to store in the probe.

    Returns:
        The probe, with `metrics`.

    Raises:
        RecipeError: the fit is unknown.

    Example:
        >>> import torch
        >>> rows, labels = torch.randn(40, 8), torch.arange(40) % 2
        >>> fit_probe(rows, labels, rows, labels, layer=1, fit="logistic").weight.shape
        (2, 8)
    """
    if fit not in FITS:
        raise RecipeError(f"fit {fit!r}; expected one of {', '.join(FITS)}")
    probe = _fit(features, labels, fit, seed)
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    control = _fit(features, shuffled, fit, seed)
    measured = _measure(probe, test_features, test_labels)
    by_chance = _measure(control, test_features, test_labels)
    return replace(
        probe,
        layer=layer,
        fit=fit,
        mean_difference=_mean_difference(features, labels).numpy(),
        metrics=ProbeMetrics(*measured, *by_chance, len(labels), len(test_labels)),
        provenance=Provenance(
            seed=seed, inputs=inputs or {}, settings={"layer": layer, "fit": fit}
        ),
    )


def fit_probe_on_texts(
    features: torch.Tensor,
    train: Sequence[LabeledText],
    test: Sequence[LabeledText],
    *,
    layer: int,
    fit: Fit = "adam",
    seed: int = 0,
) -> Probe:
    """Fit a probe to features of labeled texts (see `fit_probe`).

    Args:
        features: [n + m, d] float32, features of the n training texts followed by those of the m
            test texts.
        train: n texts to fit to.
        test: m texts to measure on.
        layer: layer of the features, 1..L.
        fit: `adam`, `logistic` or `mean-difference`.
        seed: seed of everything random.

    Returns:
        The probe, with `metrics` and hashes of the texts.

    Raises:
        RecipeError: the fit is unknown.

    Example:
        >>> split = load_texts("texts.jsonl").split()
        >>> train, test = split.train, split.test
        >>> read = [text.text for text in (*train, *test)]
        >>> features = extract_hidden_states(model, read, [3]).by_layer[3]
        >>> probe = fit_probe_on_texts(features, train, test, layer=3, fit="logistic")
    """
    texts = [*train, *test]
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


def _fit(features: torch.Tensor, labels: torch.Tensor, fit: Fit, seed: int) -> Probe:
    if fit == "adam":
        weight, bias = _fit_adam(features, labels, seed)
    elif fit == "logistic":
        weight, bias = _fit_logistic(features, labels, seed)
    else:
        direction = _mean_difference(features, labels) / 2
        middle = (features[labels == 1].mean(0) + features[labels == 0].mean(0)) / 2
        offset = direction @ middle
        weight, bias = torch.stack([-direction, direction]), torch.stack([offset, -offset])
    return Probe(weight.numpy(), bias.numpy())


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
    regression = LogisticRegressionCV(
        Cs=np.logspace(-4, 2, 7),
        cv=min(5, int(labels.bincount().min())),
        scoring="neg_log_loss",
        max_iter=1000,
        random_state=seed,
        l1_ratios=(0.0,),
        use_legacy_attributes=False,
    )
    scaler = StandardScaler()
    regression.fit(scaler.fit_transform(features.double().numpy()), labels.numpy())
    coefficients = regression.coef_[0] / scaler.scale_
    intercept = regression.intercept_[0] - coefficients @ scaler.mean_
    half = torch.from_numpy(coefficients / 2).float()
    offset = torch.tensor(intercept / 2, dtype=torch.float32)
    return torch.stack([-half, half]), torch.stack([-offset, offset])


def _mean_difference(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return features[labels == 1].mean(0) - features[labels == 0].mean(0)


def _measure(probe: Probe, features: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    logits, truth = probe.logits(features), labels.numpy()
    accuracy = float(((logits > 0) == (truth == 1)).mean())
    return accuracy, float(roc_auc_score(truth, logits))
