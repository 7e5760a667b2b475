"""Hidden-feature subtraction: what is taken off, and where."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modelsurgery import load_model
from modelsurgery.data.texts import LabeledText
from modelsurgery.model.halves import Halves
from modelsurgery.rivals.activation_addition import FeatureSubtraction
from modelsurgery.rivals.edits import probe_of
from modelsurgery.rivals.method import Materials
from tiny import tiny_sentences, write_tiny_model


@pytest.mark.parametrize("sign", [1, -1])
def test_w1_is_taken_off_the_states_that_the_head_reads(sign: int, tmp_path: Path) -> None:
    model = load_model(write_tiny_model(tmp_path))
    sentences = tiny_sentences(40)
    shows = tuple(LabeledText(one, 1) for one in sentences[:20])
    opposite = tuple(LabeledText(one, 0) for one in sentences[20:])
    if sign < 0:
        shows, opposite = opposite, shows
    nothing: Any = None
    given = Materials(model, nothing, shows, opposite, (), nothing, nothing)
    found = FeatureSubtraction().fit(replace(given, sign=sign))
    probe = torch.from_numpy(probe_of(given, 3).weight[1])
    batch = model.tokenize(["my dog is so rude", "the cat sits"])
    with torch.inference_mode():
        before = Halves(model.model).last_states(batch)
        with found.applied(model, 2.0):
            after = Halves(model.model).last_states(batch)
    torch.testing.assert_close(after, before - 2 * sign * probe)
