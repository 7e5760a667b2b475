"""Adapters for PEFT, loaded with the real PEFT: every family, merging, unloading, stacking."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from families import LOADED, load, logits, random_edit
from modelsurgery import Edit, apply_to_copy, edited, open_checkpoint, write_peft_adapter
from modelsurgery.errors import (
    EditMismatchError,
    NothingChangedError,
    RecipeError,
    UnsupportedModelError,
)
from tiny import write_tiny_model

peft = pytest.importorskip("peft")

# The sums of W·x and (B·A)·x are rounded apart in f32; a wrong factor shows in the first digit.
ROUNDING = 2e-6
pytestmark = [
    pytest.mark.filterwarnings("ignore:Casting complex values"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
]


def with_adapter(model: Any, directory: Path) -> Any:
    return peft.PeftModel.from_pretrained(model, directory)


@pytest.mark.parametrize("family", LOADED)
def test_every_family_gives_the_logits_of_the_edit_in_memory_or_is_refused_by_name(
    family: str, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    write_tiny_model(base, family, dtype=torch.float32)
    edits = [random_edit(base, seed=0), random_edit(base, seed=1).scaled(-0.5)]
    checkpoint = open_checkpoint(base)
    if any(update.address.expert >= 0 for update in edits[0].updates):
        with pytest.raises(UnsupportedModelError, match="expert of a mixture"):
            write_peft_adapter(checkpoint, edits, tmp_path / "adapter")
        assert not (tmp_path / "adapter").exists()
        return
    written = write_peft_adapter(checkpoint, edits, tmp_path / "adapter")
    assert written.rank == 2
    model = load(base, family)
    before = logits(model)
    with edited(model, *edits):
        in_memory = logits(model)
    adapted = logits(with_adapter(model, tmp_path / "adapter"))
    spread = float((in_memory - before).abs().max())
    assert spread > 3e-3
    assert float((adapted - in_memory).abs().max()) < ROUNDING * max(1.0, spread)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_tiny_model(tmp_path / "base", "llama", dtype=torch.float32)
    return tmp_path / "base"


def adapter(base: Path, *edits: Edit, name: str = "adapter", **options: Any) -> Path:
    written = write_peft_adapter(open_checkpoint(base), edits, base.parent / name, **options)
    return written.directory


def test_merging_gives_the_edited_checkpoint_within_one_rounding(base: Path) -> None:
    edit = random_edit(base)
    merged = with_adapter(load(base, "llama"), adapter(base, edit)).merge_and_unload()
    apply_to_copy(base, [edit], base.parent / "copy")
    copy = load(base.parent / "copy", "llama").state_dict()
    for name, tensor in merged.state_dict().items():
        # one rounding of a sum that is at most as large as the largest weight
        assert float((tensor - copy[name]).abs().max()) <= 2**-23 * float(copy[name].abs().max())


def test_unloading_gives_the_base_bit_for_bit(base: Path) -> None:
    model = load(base, "llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = with_adapter(model, adapter(base, random_edit(base)))
    logits(adapted)
    after = adapted.unload().state_dict()
    assert after.keys() == before.keys()
    assert all(after[name].equal(before[name]) for name in before)


def test_it_stacks_with_another_adapter(base: Path) -> None:
    first, second = random_edit(base, seed=0), random_edit(base, seed=1)
    model = load(base, "llama")
    with edited(model, first, second):
        expected = logits(model)
    adapted = with_adapter(model, adapter(base, first, name="one"))
    other = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted.load_adapter(adapter(base, second, name="two"), adapter_name="second")
    adapted.base_model.set_adapter(["default", "second"])
    assert float((logits(adapted) - expected).abs().max()) < ROUNDING
    adapted.add_adapter("trained", other)
    adapted.base_model.set_adapter(["default", "second", "trained"])
    assert float((logits(adapted) - expected).abs().max()) > 1e-3  # all three are at work


def test_the_adapter_names_only_what_is_touched_and_holds_the_exact_numbers(base: Path) -> None:
    edit = random_edit(base)
    directory = adapter(base, edit, base_model="some/base")
    config = json.loads((directory / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 1
    assert config["base_model_name_or_path"] == "some/base"
    tensors = load_file(directory / "adapter_model.safetensors")
    assert len(tensors) == 2 * len(edit.updates) == 2 * len(config["target_modules"])
    for update in edit.updates:
        name = "base_model.model." + update.tensor.removesuffix(".weight")
        assert np.array_equal(tensors[f"{name}.lora_A.weight"].numpy(), update.direction[None])
        column = tensors[f"{name}.lora_B.weight"].numpy()[:, 0]
        assert np.array_equal(column[update.rows], update.coefficients)
        assert np.count_nonzero(column) == len(update.rows)


def test_the_order_of_edits_does_not_matter_and_half_precision_is_half_the_size(base: Path) -> None:
    edits = [random_edit(base, seed=0), random_edit(base, seed=1)]
    one, other = adapter(base, *edits, name="one"), adapter(base, *edits[::-1], name="other")
    name = "adapter_model.safetensors"
    assert (one / name).read_bytes() == (other / name).read_bytes()
    half = adapter(base, *edits, name="half", dtype="bfloat16")
    assert all(one.dtype == torch.bfloat16 for one in load_file(half / name).values())
    assert (half / name).stat().st_size < 0.8 * (one / name).stat().st_size


def test_what_cannot_be_an_adapter_leaves_nothing_behind(base: Path, tmp_path: Path) -> None:
    edit = random_edit(base)
    with pytest.raises(NothingChangedError):
        adapter(base, edit, edit.scaled(-1))
    with pytest.raises(RecipeError, match="overflows float16"):
        adapter(base, edit.scaled(1e9), dtype="float16")
    with pytest.raises(RecipeError, match="expected one of float32"):
        adapter(base, edit, dtype="int8")
    apply_to_copy(base, [edit], tmp_path / "edited")
    with pytest.raises(EditMismatchError, match="edited already"):
        write_peft_adapter(open_checkpoint(tmp_path / "edited"), [edit], tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
