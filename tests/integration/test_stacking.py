"""Edits on top of edits: scores are those of the edited model, what is delivered is the sum."""

from pathlib import Path

import numpy as np
import pytest
import torch

from families import random_edit
from modelsurgery import (
    apply_to_copy,
    edited,
    load_model,
    make_edit,
    open_checkpoint,
    score_rows,
    select_region,
)
from modelsurgery.checkpoint.layouts import find_gate_matrices
from modelsurgery.model.stacking import score_model_rows, stacked
from tiny import write_tiny_model


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2"])
def test_rows_are_scored_as_in_a_checkpoint_that_has_the_edits(family: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    write_tiny_model(base, family, dtype=torch.bfloat16)
    first = random_edit(base, seed=0)
    apply_to_copy(base, [first], tmp_path / "edited")
    copy = open_checkpoint(tmp_path / "edited")
    gates = find_gate_matrices(copy)
    rng = np.random.default_rng(3)
    directions = rng.standard_normal((2, gates[0].hidden_size), dtype=np.float32)
    expected = score_rows(copy, gates, directions)
    model = load_model(base)
    with stacked(model, [first]) as on_top:
        found = score_model_rows(on_top, directions)
    untouched = score_model_rows(model, directions)
    for one, other, plain in zip(found.cosines, expected.cosines, untouched.cosines, strict=True):
        assert np.allclose(one, other, atol=1e-6)
        assert not np.allclose(plain, other, atol=1e-3)
    assert found.mean_row_norm == pytest.approx(expected.mean_row_norm, rel=1e-6)
    assert untouched.mean_row_norm != pytest.approx(expected.mean_row_norm, rel=1e-3)


def test_the_weights_come_back_and_caches_tell_the_models_apart(tmp_path: Path) -> None:
    base = tmp_path / "base"
    write_tiny_model(base, "llama", dtype=torch.float32)
    first = random_edit(base)
    model = load_model(base)
    before = {name: one.clone() for name, one in model.model.state_dict().items()}
    with stacked(model, [first]) as on_top:
        assert on_top.edits == (first,)
        assert on_top.fingerprint() != model.fingerprint()
        with stacked(model.__class__(model.model, model.tokenizer, model.checkpoint), []) as same:
            assert same.fingerprint() == model.fingerprint()
    assert all(before[name].equal(one) for name, one in model.model.state_dict().items())


def test_an_edit_made_on_top_belongs_to_the_base_and_is_summed_with_the_first(
    tmp_path: Path,
) -> None:
    base = tmp_path / "base"
    write_tiny_model(base, "llama", dtype=torch.float32)
    first = random_edit(base)
    model = load_model(base)
    direction = first.updates[0].direction
    with stacked(model, [first]) as on_top:
        scores = score_model_rows(on_top, direction[None])
        region = select_region(scores, 0.3)
        second = make_edit(region, direction, strength=1.0)
        with edited(on_top.model, second):
            in_a_row = {name: one.clone() for name, one in model.model.state_dict().items()}
    second = second.bound_to(model.checkpoint)
    with edited(model.model, first, second):
        for name, tensor in model.model.state_dict().items():
            assert torch.allclose(tensor, in_a_row[name], atol=1e-6)
    apply_to_copy(base, [first, second], tmp_path / "both")
