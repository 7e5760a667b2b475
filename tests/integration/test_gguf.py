"""Adapters for llama.cpp, run by the real llama.cpp beside the edit in memory."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from families import load, random_edit
from gguf_families import write_gguf_family
from llama_cpp import LlamaCpp, write_gguf_model
from modelsurgery import (
    Edit,
    LanguageModel,
    apply_to_copy,
    edited,
    find_gate_matrices,
    load_model,
    make_edit,
    open_checkpoint,
    score_rows,
    select_region,
    undo,
    write_gguf_adapter,
)
from modelsurgery.data import demo
from modelsurgery.errors import OutputExistsError, RecipeError, UnsupportedModelError
from modelsurgery.model.hidden_states import extract_hidden_states
from tiny import COMMON, write_tiny_model

gguf = pytest.importorskip("gguf")

# llama.cpp sums in another order than torch, over four blocks in f32.
LOG_PROBABILITY = 5e-5
PROMPTS = ("My neighbor is such a", "The weather today is", "Please tell me how to",
           "After the game, my friend")  # fmt: skip


def a_toxicity_edit(model: LanguageModel, layer: int, strength: float) -> Edit:
    rows = demo.labeled_texts("toxicity", 400, 0)
    states = extract_hidden_states(model, [text for text, _ in rows], [layer])
    shows = torch.tensor([label == 1 for _, label in rows])
    features = states.by_layer[layer]
    direction = (features[shows].mean(0) - features[~shows].mean(0)).numpy()
    scores = score_rows(model.checkpoint, model.gates, direction[None])
    region = select_region(scores, 0.04)
    return make_edit(region, direction, strength=strength).bound_to(model.checkpoint)


@pytest.fixture(scope="module")
def model(demo_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """The demo model in f32, so that an edit in memory is not rounded to bf16."""
    directory = tmp_path_factory.mktemp("f32")
    shutil.copytree(demo_path, directory, dirs_exist_ok=True)
    tensors = load_file(demo_path / "model.safetensors")
    save_file({name: one.float() for name, one in tensors.items()}, directory / "model.safetensors")
    return load_model(directory)


@pytest.fixture(scope="module")
def edits(model: LanguageModel) -> tuple[Edit, Edit]:
    return a_toxicity_edit(model, 2, 3.0), a_toxicity_edit(model, 4, -2.0)


@pytest.fixture(scope="module")
def base(demo_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf_model(demo_path, tmp_path_factory.mktemp("gguf") / "base.gguf")


def said_in_memory(
    model: LanguageModel, prompt: str, edits: Sequence[Edit]
) -> tuple[str, list[int], torch.Tensor]:
    """Greedy text, its tokens, and log-probabilities of the first one."""
    batch = model.tokenize([prompt])
    ids = batch["input_ids"]
    with torch.inference_mode(), edited(model.model, *edits):
        first = model.model(**batch).logits[0, -1].log_softmax(-1)
        whole = model.model.generate(**batch, max_new_tokens=16, do_sample=False)
    tokens = [one for one in whole[0, ids.shape[1] :].tolist() if one != 1]
    return model.tokenizer.decode(tokens), tokens, first


@pytest.mark.parametrize("count", [0, 1, 2])
def test_llama_cpp_says_what_the_edit_in_memory_says(
    count: int,
    model: LanguageModel,
    edits: tuple[Edit, Edit],
    base: Path,
    tmp_path: Path,
) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (pip install xllamacpp)")
    used = edits[:count]
    adapters = []
    if used:
        written = write_gguf_adapter(model.checkpoint, used, tmp_path / "adapter.gguf")
        assert written.rank == count
        assert written.architecture == "llama"
        adapters = [(written.path, 1.0)]
    engine = LlamaCpp(base, adapters)
    apart = 0.0
    moved = 0
    for prompt in PROMPTS:
        text, tokens, first = said_in_memory(model, prompt, used)
        ids = model.tokenizer(prompt)["input_ids"]
        found_text, found, ranked = engine.continued(ids, 16, alternatives=40)
        assert found[: len(tokens)] == tokens
        assert found_text == text
        apart = max(apart, *(abs(one - float(first[at])) for at, one in ranked[0].items()))
        moved += said_in_memory(model, prompt, ())[1] != tokens
    assert apart < LOG_PROBABILITY
    assert (moved > 0) == (count > 0)


def test_a_file_edited_as_it_is_says_what_the_edit_in_memory_says(
    model: LanguageModel, edits: tuple[Edit, Edit], base: Path, tmp_path: Path
) -> None:
    """Edits of the safetensors; gate rows of the file are where the original has them."""
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (pip install xllamacpp)")
    copy = apply_to_copy(base, edits, tmp_path / "edited.gguf")
    engine, apart = LlamaCpp(copy.directory), 0.0
    for prompt in PROMPTS:
        _, tokens, first = said_in_memory(model, prompt, edits)
        ids = model.tokenizer(prompt)["input_ids"]
        _, found, ranked = engine.continued(ids, 16, alternatives=40)
        assert found[: len(tokens)] == tokens
        apart = max(apart, *(abs(one - float(first[at])) for at, one in ranked[0].items()))
    assert apart < LOG_PROBABILITY
    undo(copy.directory)
    assert copy.directory.read_bytes() == base.read_bytes()


def test_half_scale_is_half_the_strength(
    model: LanguageModel, edits: tuple[Edit, Edit], base: Path, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (pip install xllamacpp)")
    written = write_gguf_adapter(model.checkpoint, edits[:1], tmp_path / "adapter.gguf")
    engine = LlamaCpp(base, [(written.path, 0.5)])
    _, _, first = said_in_memory(model, PROMPTS[0], [edits[0].scaled(0.5)])
    _, _, ranked = engine.continued(model.tokenizer(PROMPTS[0])["input_ids"], 1, alternatives=40)
    assert max(abs(one - float(first[at])) for at, one in ranked[0].items()) < LOG_PROBABILITY


# Measured: 1e-6 for SiLU; llama.cpp reads GELU from a table in f16, and has only its tanh form.
FAMILY_LOG_PROBABILITY = {"phi3": 1e-5, "gpt2": 5e-4, "gpt_neox": 1e-3}


@pytest.mark.parametrize("family", FAMILY_LOG_PROBABILITY)
def test_fused_transposed_and_plain_matrices_are_what_llama_cpp_takes_them_for(
    family: str, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (pip install xllamacpp)")
    base = write_tiny_model(tmp_path / "base", family, dtype=torch.float32)
    edits = [random_edit(base, seed=0), random_edit(base, seed=1).scaled(-0.5)]
    adapter = write_gguf_adapter(open_checkpoint(base), edits, tmp_path / "adapter.gguf").path
    whole = write_gguf_family(base, tmp_path / "base.gguf")
    loaded, ids = load(base, family), [1, 7, 9, 14, 11, 23, 8, 30]
    spoken = []
    for used, adapters in (((), []), (edits, [(adapter, 1.0)])):
        with torch.inference_mode(), edited(loaded, *used):
            expected = loaded(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        engine = LlamaCpp(whole, adapters)
        _, _, (found,) = engine.continued(ids, 1, alternatives=COMMON["vocab_size"])
        assert len(found) == COMMON["vocab_size"]
        apart = max(abs(one - float(expected[at])) for at, one in found.items())
        assert apart < FAMILY_LOG_PROBABILITY[family]
        spoken.append(expected)
    assert float((spoken[1] - spoken[0]).abs().max()) > 0.1


def tensors_of(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {one.name: one.data for one in gguf.GGUFReader(path).tensors}


# What llama.cpp's converter calls the matrices, and whether the file holds them transposed.
NAMES = {
    "llama": "blk.0.ffn_gate.weight",
    "mistral": "blk.0.ffn_gate.weight",
    "qwen3": "blk.0.ffn_gate.weight",
    "gemma3_text": "blk.0.ffn_gate.weight",
    "phi3": "blk.0.ffn_up.weight",
    "glm": "blk.0.ffn_up.weight",
    "gpt2": "blk.0.ffn_up.weight",
    "gpt_neox": "blk.0.ffn_up.weight",
    "bloom": "blk.0.ffn_up.weight",
    "qwen2_vl": "blk.0.ffn_gate.weight",
    "ministral3": "blk.0.ffn_gate.weight",
    "internlm3": "blk.0.ffn_gate.weight",
}


@pytest.mark.parametrize("family", NAMES)
def test_factors_multiply_to_what_the_copy_on_disk_gained(family: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    write_tiny_model(base, family, dtype=torch.float32)
    edits = [random_edit(base, seed=0), random_edit(base, seed=1)]
    checkpoint = open_checkpoint(base)
    written = write_gguf_adapter(checkpoint, edits, tmp_path / "adapter.gguf")
    assert written.tensors[0] == NAMES[family]
    tensors = tensors_of(written.path)
    apply_to_copy(base, edits, tmp_path / "copy")
    gate = find_gate_matrices(checkpoint)[0]
    before, after = (load_tensor(directory, gate.tensor) for directory in (base, tmp_path / "copy"))
    gained = (after - before).T if gate.view.is_transposed else after - before
    product = tensors[f"{NAMES[family]}.lora_b"] @ tensors[f"{NAMES[family]}.lora_a"]
    assert product.shape == gained.shape  # [out, in], as llama.cpp holds the weight
    assert np.allclose(product, gained, atol=1e-6)


def load_tensor(directory: Path, name: str) -> np.ndarray[Any, Any]:
    tensor: np.ndarray[Any, Any] = load_file(directory / "model.safetensors")[name].numpy()
    return tensor


def test_what_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    for family, says in (
        ("mixtral", "expert of a mixture"),
        ("opt", "'opt'"),
        ("gptj", "'gptj'"),  # a name without a converter and without a graph
    ):
        base = tmp_path / family
        write_tiny_model(base, family, dtype=torch.float32)
        with pytest.raises(UnsupportedModelError, match=says):
            write_gguf_adapter(open_checkpoint(base), [random_edit(base)], tmp_path / "a.gguf")
        assert not (tmp_path / "a.gguf").exists()
    base = tmp_path / "llama"
    write_tiny_model(base, "llama", dtype=torch.float32)
    with pytest.raises(RecipeError, match="float32 or float16"):
        write_gguf_adapter(open_checkpoint(base), [random_edit(base)], tmp_path / "a.gguf",
                           dtype="bfloat16")  # fmt: skip
    with pytest.raises(RecipeError, match="overflows float16"):
        write_gguf_adapter(open_checkpoint(base), [random_edit(base).scaled(1e9)],
                           tmp_path / "a.gguf", dtype="float16")  # fmt: skip
    assert not (tmp_path / "a.gguf").exists()
    (tmp_path / "a.gguf").touch()
    with pytest.raises(OutputExistsError):
        write_gguf_adapter(open_checkpoint(base), [random_edit(base)], tmp_path / "a.gguf")
