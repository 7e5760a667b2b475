"""Edits as values: scaled, turned round, added."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from modelsurgery import (
    Edit,
    apply_to_copy,
    edited,
    find_gate_matrices,
    load_edit,
    make_edit,
    open_checkpoint,
    save_edit,
    score_rows,
    select_region,
)
from modelsurgery.errors import EditMismatchError


def an_edit(directory: Path, seed: int, rows: int = 20) -> Edit:
    checkpoint = open_checkpoint(directory)
    gates = find_gate_matrices(checkpoint)
    direction = np.random.default_rng(seed).standard_normal(gates[0].hidden_size, dtype=np.float32)
    region = select_region(score_rows(checkpoint, gates, direction[None]), rows)
    return make_edit(region, direction, strength=2.0).bound_to(checkpoint)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_sum_changes_the_model_as_both_edits_do_together(
    tiny_llama: Path, tmp_path: Path
) -> None:
    first, second = an_edit(tiny_llama, 0, rows=60), an_edit(tiny_llama, 1, rows=60)
    apply_to_copy(tiny_llama, [first, second], tmp_path / "both")
    apply_to_copy(tiny_llama, [first + second], tmp_path / "sum")
    apply_to_copy(tiny_llama, [second + first], tmp_path / "other")
    both, added, other = (weights(tmp_path / name) for name in ("both", "sum", "other"))
    assert all(both[name].equal(added[name]) and both[name].equal(other[name]) for name in both)
    assert any(not both[name].equal(one) for name, one in weights(tiny_llama).items())


def test_a_sum_counts_a_shared_row_once_and_is_the_same_in_either_order(tiny_llama: Path) -> None:
    first, second = an_edit(tiny_llama, 0, rows=60), an_edit(tiny_llama, 1, rows=60)
    taken = {(one.address, row) for edit in (first, second) for one in edit.updates
             for row in one.rows.tolist()}  # fmt: skip
    assert len(taken) < 120
    assert (first + second).row_count == len(taken)
    assert (first + second).content_sha256 == (second + first).content_sha256
    assert (first + second).content_sha256 != first.content_sha256


def test_an_edit_minus_itself_changes_nothing(tiny_llama: Path) -> None:
    edit = an_edit(tiny_llama, 0)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    with edited(model, edit + -edit):
        assert all(before[name].equal(one) for name, one in model.state_dict().items())
    with edited(model, edit):
        assert not all(before[name].equal(one) for name, one in model.state_dict().items())


def test_minus_and_scaled_turn_coefficients_and_numbers(tiny_llama: Path) -> None:
    edit = an_edit(tiny_llama, 0)
    assert (-edit).strength == -edit.strength == edit.scaled(-1).strength
    half = edit.scaled(0.5)
    assert half.alpha == pytest.approx(edit.alpha / 2)
    for one, other in zip(edit.updates, half.updates, strict=True):
        assert np.array_equal(one.coefficients / 2, other.coefficients)


def test_a_sum_survives_its_file(tiny_llama: Path, tmp_path: Path) -> None:
    added = an_edit(tiny_llama, 0) + an_edit(tiny_llama, 1)
    save_edit(added, tmp_path / "sum.safetensors")
    loaded = load_edit(tmp_path / "sum.safetensors")
    assert loaded.content_sha256 == added.content_sha256
    assert loaded.provenance.settings == added.provenance.settings
    assert loaded.strength == 1.0


def test_edits_of_different_models_are_not_added(tiny_llama: Path) -> None:
    edit = an_edit(tiny_llama, 0)
    with pytest.raises(EditMismatchError, match="of the same model"):
        edit + replace(edit, candidate_rows=edit.candidate_rows + 1)
