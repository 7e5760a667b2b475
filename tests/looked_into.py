"""Tiny models with a random edit and a random probe, and a look into them."""

from pathlib import Path
from typing import Any

import numpy as np

from families import loaded, random_edit
from modelsurgery.data.behaviors import Behavior, BehaviorFile
from modelsurgery.data.texts import LabeledText
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.probe import Probe
from modelsurgery.interpret import Inside, look_inside
from modelsurgery.model.language_model import LanguageModel
from tiny import tiny_sentences

D = 32
SENTENCES = tiny_sentences(60)


def texts_of_a_behavior() -> Behavior:
    test = tuple(LabeledText(text, n % 2) for n, text in enumerate(SENTENCES[:30]))
    facts = tuple((text, "good") for text in SENTENCES[50:])
    described = BehaviorFile(name="tiny", title="tiny", texts=Path("tiny.jsonl"))
    nothing: tuple[Any, ...] = ()
    return Behavior(
        described, False, nothing, nothing, test, nothing, nothing, nothing,
        tuple(SENTENCES[30:50]), "tiny sentences", nothing, facts,
    )  # fmt: skip


def random_probe(layer: int) -> Probe:
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((2, D), dtype=np.float32)
    return Probe(weight, np.array([0.1, -0.2], np.float32), layer=layer)


def looked(directory: Path, *, seed: int = 0) -> tuple[LanguageModel, Edit, Inside]:
    model, edit = loaded(directory), random_edit(directory)
    direction = edit.updates[0].direction
    behavior = texts_of_a_behavior()
    seen = look_inside(model, edit, random_probe(2), behavior, direction=direction, seed=seed)
    return model, edit, seen
