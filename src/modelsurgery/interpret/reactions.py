"""How base and edited model react to held-out texts of each kind, as figures show it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from modelsurgery.data.behaviors import Behavior
from modelsurgery.data.behaviors.packaging import packaged_problems
from modelsurgery.data.texts import LabeledText
from modelsurgery.edit.probe import Probe
from modelsurgery.interpret.activity import Activity, Neuron
from modelsurgery.interpret.distributions import Counts, cosine_with_mean, count_histograms
from modelsurgery.interpret.neurons import MeanOutput
from modelsurgery.model.chat_template import Text
from modelsurgery.model.language_model import LanguageModel

MOST_TEXTS = 64  # of each kind
MOST_PROBLEMS = 32  # which are several times as long
MOST_POINTS = 101  # of a curve
SHOWS = "texts that show the behavior"
OPPOSITES = "their opposites"
NEUTRAL = "neutral text"
FACTS = "questions of facts"
PROBLEMS = "school math problems"
LABELS = {SHOWS: 1, OPPOSITES: 0}


@dataclass(frozen=True)
class Activation:
    """How many of the chosen neurons are active on texts of a kind."""

    texts: str
    base: float  # share of them that are active at a token, 0..1
    edited: float
    tokens: int  # how many, special ones left out
    counts: Counts


@dataclass(frozen=True)
class Similarity:
    """Cosine of the direction with the base model's mean hidden state on texts of a kind."""

    texts: str
    cosine: float


@dataclass(frozen=True)
class ProbeLoss:
    """Mean cross-entropy of the probe, nats, on texts of one label, base and edited model."""

    texts: str
    base: float
    edited: float


@dataclass(frozen=True)
class Roc:
    """The probe's receiver operating characteristic."""

    false_positive_rate: tuple[float, ...]  # ascending, from 0 to 1
    true_positive_rate: tuple[float, ...]  # at the same thresholds
    auroc: float  # area under it, of all texts
    texts: int


def texts_by_kind(model: LanguageModel, behavior: Behavior) -> dict[str, list[Text]]:
    """The first held-out texts of each kind, as the model reads them; kinds without any left out.

    Held-out texts are in the order of a hash, so the first are as good as any. Capability prompts
    are the behavior's questions of facts, or else math problems that ship with the package and fit
    the model's context.
    """
    kinds: dict[str, list[Text]] = {
        kind: [model.render(text) for text in texts]
        for kind, texts in labeled_by_kind(behavior).items()
    }
    kinds[NEUTRAL] = list(behavior.test_neutral)
    kinds[FACTS] = [question for question, _ in behavior.test_facts]
    if not behavior.test_facts:
        kinds[PROBLEMS] = _problems(model)
    return {kind: texts[:MOST_TEXTS] for kind, texts in kinds.items() if texts}


def _problems(model: LanguageModel) -> list[Text]:
    problems = packaged_problems()
    lengths = map(len, model.token_ids(problems))
    fitting = [
        one for one, length in zip(problems, lengths, strict=True) if length <= model.context_length
    ]
    return [*fitting[:MOST_PROBLEMS]]


def labeled_by_kind(behavior: Behavior) -> dict[str, list[LabeledText]]:
    """The first held-out texts that show the behavior, and of their opposites."""
    return {
        kind: [text for text in behavior.test if text.label == label][:MOST_TEXTS]
        for kind, label in LABELS.items()
    }


def activations_of(
    base: Mapping[str, Activity], edited: Mapping[str, Activity], neurons: int
) -> tuple[Activation, ...] | None:
    """How active a number of counted neurons are, by kind of text; None where none was counted."""
    # Of texts that are special tokens throughout, nothing was counted.
    pairs = {
        kind: (base[kind].active, edited[kind].active) for kind in edited if len(base[kind].active)
    }
    if not (pairs and neurons):
        return None
    histograms = count_histograms(list(pairs.values()))
    return tuple(
        Activation(
            kind,
            float(before.sum()) / (neurons * len(before)),
            float(after.sum()) / (neurons * len(after)),
            len(before),
            counts,
        )
        for (kind, (before, after)), counts in zip(pairs.items(), histograms, strict=True)
    )


def similarity_of(
    base: Mapping[str, Activity], direction: NDArray[np.float32]
) -> tuple[Similarity, ...]:
    """Cosines of a direction [d] with the mean hidden states of each kind of text."""
    return tuple(
        Similarity(kind, cosine_with_mean(direction, activity.features))
        for kind, activity in base.items()
    )


def probe_roc(base: Mapping[str, Activity], probe: Probe) -> Roc:
    """The curve of a probe on texts of both labels, from features of its layer."""
    by_kind = [probe.logits(base[kind].features) for kind in LABELS]
    logits = np.concatenate(by_kind)
    labels = np.repeat([*LABELS.values()], [*map(len, by_kind)])
    false, true, _ = roc_curve(labels, logits)
    kept = np.unique(np.linspace(0, len(false) - 1, MOST_POINTS).round().astype(np.int64))
    area = float(roc_auc_score(labels, logits))
    return Roc(tuple(false[kept].tolist()), tuple(true[kept].tolist()), area, len(labels))


def probe_losses(
    base: Mapping[str, Activity], edited: Mapping[str, Activity], probe: Probe
) -> tuple[ProbeLoss, ...]:
    """Losses of a probe on labeled texts, from features of its layer."""

    def loss(seen: Activity, label: int) -> float:
        signed = probe.logits(seen.features).astype(np.float64) * (1 if label == 1 else -1)
        return float(np.logaddexp(0.0, -signed).mean())

    return tuple(
        ProbeLoss(kind, loss(base[kind], label), loss(edited[kind], label))
        for kind, label in LABELS.items()
    )


def mean_outputs_of(base: Activity, edited: Activity) -> dict[Neuron, MeanOutput]:
    """Mean activations of the neurons that were measured."""
    return {
        neuron: MeanOutput(value, edited.mean_outputs[neuron])
        for neuron, value in base.mean_outputs.items()
    }
