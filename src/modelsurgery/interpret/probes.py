"""What a probe's directions say in tokens, how alike they are, and what texts they touch."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from modelsurgery.data.behaviors import Behavior
from modelsurgery.edit.probe import DIRECTION_SOURCES, Probe
from modelsurgery.errors import RecipeError
from modelsurgery.files.progress import Progress, silent
from modelsurgery.interpret.distributions import cosine_with_mean
from modelsurgery.interpret.lens import Ends, read_tokens
from modelsurgery.interpret.looking import layer_note, plain
from modelsurgery.interpret.neurons import DIRECTION_TOKENS
from modelsurgery.interpret.reactions import texts_by_kind
from modelsurgery.model.hidden_states import extract_hidden_states
from modelsurgery.model.language_model import LanguageModel


@dataclass(frozen=True)
class ProbeView:
    """What a probe says."""

    directions: dict[str, Ends]  # each that can be taken from it, by its rule
    cosines: dict[str, float]  # of each pair of directions, by their rules
    layer_note: str  # where the directions come from, and how they are read

    def to_json(self) -> dict[str, Any]:
        """The same as plain values, numbers to six digits."""
        return dict(plain(asdict(self)))


@dataclass(frozen=True)
class ProbeSimilarity:
    """Cosine of a probe's direction with the mean hidden state of texts, at the probe's layer."""

    probe: str
    texts: str
    cosine: float  # with the probe's default direction


def probe_similarities(
    model: LanguageModel,
    probes: Mapping[str, Probe],
    behavior: Behavior,
    *,
    progress: Progress = silent,
) -> tuple[ProbeSimilarity, ...]:
    """Cosines of several probes with held-out texts of a behavior and with capability prompts.

    All probes, by name, are of this model; one whose layer is not known reads the last. `progress`
    is told of kinds of texts read.
    """
    for probe in probes.values():
        _check_width(model, probe)
    layers = {name: probe.layer or model.layer_count for name, probe in probes.items()}
    found = []
    kinds = texts_by_kind(model, behavior)
    with progress("looking inside", len(kinds)) as advance:
        for kind, texts in kinds.items():
            states = extract_hidden_states(model, texts, sorted(set(layers.values()))).by_layer
            for name, probe in probes.items():
                direction = probe.direction(probe.default_source)
                cosine = cosine_with_mean(direction, states[layers[name]].numpy())
                found.append(ProbeSimilarity(name, kind, cosine))
            advance(1)
    return tuple(found)


def read_probe(model: LanguageModel, probe: Probe) -> ProbeView:
    """The tokens at both ends of a probe's directions.

    Raises:
        RecipeError: the probe is for another model.
        UnsupportedModelError: the model has no final norm.
    """
    _check_width(model, probe)
    rules = [
        rule
        for rule in DIRECTION_SOURCES
        if rule != "mean-difference" or probe.mean_difference is not None
    ]
    vectors = np.stack([probe.direction(rule) for rule in rules])
    ends = read_tokens(model, torch.from_numpy(vectors), [DIRECTION_TOKENS] * len(rules))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-30)
    return ProbeView(
        dict(zip(rules, ends, strict=True)),
        {
            f"{rules[one]} and {rules[other]}": float(units[one] @ units[other])
            for one, other in itertools.combinations(range(len(rules)), 2)
        },
        layer_note(model, probe),
    )


def _check_width(model: LanguageModel, probe: Probe) -> None:
    width = model.gates[0].hidden_size
    if probe.weight.shape[1] != width:
        raise RecipeError(
            f"the probe has {probe.weight.shape[1]} values, but the hidden states of "
            f"{model.checkpoint.directory} have {width}; use the model that the probe was made for"
        )
