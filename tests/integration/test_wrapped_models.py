"""Models that were loaded by transformers, and models spread by a device map."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from modelsurgery import edited, fit_edit, load_edit, load_model, wrap
from modelsurgery.data.texts import LabeledText
from modelsurgery.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError
from tiny import tiny_sentences, write_tiny_model

TEXTS = [
    LabeledText(f"{sentence} {ending}", label, group=sentence)
    for sentence in tiny_sentences(60)
    for label, ending in ((1, "rude bad"), (0, "kind good"))
]


def by_transformers(directory: Path, **options: Any) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(directory, **options)
    return model, AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "qwen3_moe"])
def test_a_wrapped_model_gives_the_edit_of_a_loaded_one(family: str, tmp_path: Path) -> None:
    directory = write_tiny_model(tmp_path / "m", family)
    ours, theirs = load_model(directory), wrap(*by_transformers(directory))
    assert theirs.checkpoint.directory == directory
    assert theirs.fingerprint() == ours.fingerprint()
    edits = [fit_edit(model, TEXTS, strength=0.5) for model in (ours, theirs)]
    assert edits[0].content_sha256 == edits[1].content_sha256


def test_a_wrapped_model_no_longer_learns(tiny_llama: Path) -> None:
    model, tokenizer = by_transformers(tiny_llama)
    model.train()
    wrapped = wrap(model, tokenizer)
    assert wrapped.model is model
    assert not model.training
    assert not any(one.requires_grad for one in model.parameters())
    assert wrapped.tokenizer.pad_token_id is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrower_dtype_is_the_same_model(dtype: torch.dtype, tiny_llama: Path) -> None:
    assert wrap(*by_transformers(tiny_llama, dtype=dtype)).model.dtype == dtype


def test_other_weights_than_those_of_the_files_are_refused(tiny_llama: Path) -> None:
    model, tokenizer = by_transformers(tiny_llama)
    with torch.no_grad():
        model.model.layers[-1].mlp.gate_proj.weight[-1, 0] += 0.01
    with pytest.raises(CheckpointError, match="other weights than these files"):
        wrap(model, tokenizer)


def test_another_model_s_files_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "gpt2", "gpt2")
    with pytest.raises((CheckpointError, UnsupportedModelError)):
        wrap(*by_transformers(tiny_llama), checkpoint=other)


def test_a_model_without_files_says_what_to_do(tiny_llama: Path) -> None:
    model, tokenizer = by_transformers(tiny_llama)
    nameless = type(model)(model.config)
    nameless.name_or_path = ""
    with pytest.raises(ModelNotFoundError, match=r"save_pretrained\(DIR\)"):
        wrap(nameless, tokenizer)


def test_a_device_map_gives_the_same_edit(tiny_llama: Path) -> None:
    plain = load_model(tiny_llama)
    spread = load_model(tiny_llama, device_map={"": "cpu"})
    edits = [fit_edit(model, TEXTS, strength=0.5) for model in (plain, spread)]
    assert edits[0].content_sha256 == edits[1].content_sha256


def test_a_device_map_that_transformers_does_not_know_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(CheckpointError, match="device_map"):
        load_model(tiny_llama, device_map="everywhere")


def test_an_edit_is_applied_and_saved_by_its_own_methods(tiny_llama: Path, tmp_path: Path) -> None:
    model = load_model(tiny_llama)
    edit = fit_edit(model, TEXTS, strength=0.5)
    before = {name: one.clone() for name, one in model.model.named_parameters()}
    with edited(model.model, edit):
        expected = {name: one.clone() for name, one in model.model.named_parameters()}
    for taken in (model, model.model):
        with edit.applied(taken):
            for name, one in model.model.named_parameters():
                assert torch.equal(one, expected[name])
    assert any(not torch.equal(expected[name], one) for name, one in before.items())
    assert all(torch.equal(one, before[name]) for name, one in model.model.named_parameters())
    edit.save(tmp_path / "e.safetensors")
    assert load_edit(tmp_path / "e.safetensors").content_sha256 == edit.content_sha256
