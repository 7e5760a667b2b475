"""What a probe's directions say in tokens, and how alike they are."""

import itertools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from modelsurgery.edit.probe import DIRECTION_SOURCES, Probe
from modelsurgery.errors import RecipeError
from modelsurgery.interpret.lens import Ends, read_tokens
from modelsurgery.interpret.looking import layer_note, plain
from modelsurgery.interpret.neurons import DIRECTION_TOKENS
from modelsurgery.model.language_model import LanguageModel


@dataclass(frozen=True)
class ProbeView:
    """What a probe says.

    Attributes:
        directions: tokens of each direction that can be taken from it, by its rule.
        cosines: of each pair of directions, by their rules.
        layer_note: where the directions come from, and how they are read.
    """

    directions: dict[str, Ends]
    cosines: dict[str, float]
    layer_note: str

    def to_json(self) -> dict[str, Any]:
        """The same as plain values, numbers to six digits."""
        content: dict[str, Any] = plain(asdict(self))
        return content


def read_probe(model: LanguageModel, probe: Probe) -> ProbeView:
    """The tokens at both ends of a probe's directions.

    Raises:
        RecipeError: the probe is for another model.
        UnsupportedModelError: the model has no final norm.
    """
    width = model.gates[0].hidden_size
    if probe.weight.shape[1] != width:
        raise RecipeError(
            f"the probe has {probe.weight.shape[1]} values, but the hidden states of "
            f"{model.checkpoint.directory} have {width}; use the model that the probe was made for"
        )
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
