"""Contract 8: what holds gate rows, what must not match, what is refused by name."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from modelsurgery import find_gate_matrices, open_checkpoint
from modelsurgery.checkpoint.layouts import load_layout
from modelsurgery.errors import RecipeError, UnsupportedModelError
from tiny import FAMILIES, write_tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_one_gate_matrix_a_block(family: str, tmp_path: Path) -> None:
    directory = write_tiny_model(tmp_path / family, family)
    gates = find_gate_matrices(open_checkpoint(directory))
    assert [gate.block for gate in gates] == [0, 1, 2]
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    for gate in gates:
        parameter = model.get_parameter(gate.tensor)
        assert tuple(parameter.shape) == (gate.rows, gate.hidden_size) == (48, 32)
        module = model.get_submodule(gate.tensor.removesuffix(".weight"))
        block = model.get_submodule(f"model.layers.{gate.block}.mlp")
        assert module is block.gate_proj


def change(directory: Path, edit_config=None, edit_tensors=None) -> Path:
    config = json.loads((directory / "config.json").read_text())
    tensors = load_file(directory / "model.safetensors")
    if edit_config:
        edit_config(config)
    if edit_tensors:
        edit_tensors(tensors)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.gate_proj.weight",
        "model.layers.0.mlp.gate.weight",
        "vision_tower.layers.0.mlp.gate_proj.weight",
        "model.layers.00.mlp.gate_proj.weight",
        "xmodel.layers.0.mlp.gate_proj.weight",
    ],
)
def test_look_alikes_do_not_match(name: str, tmp_path: Path) -> None:
    directory = change(
        write_tiny_model(tmp_path / "base"),
        edit_tensors=lambda tensors: tensors.update({name: torch.ones(48, 32)}),
    )
    assert name not in {gate.tensor for gate in find_gate_matrices(open_checkpoint(directory))}


def test_a_partly_matched_model_is_refused_with_what_was_found(tmp_path: Path) -> None:
    directory = change(
        write_tiny_model(tmp_path / "base"),
        edit_tensors=lambda tensors: tensors.pop("model.layers.1.mlp.gate_proj.weight"),
    )
    with pytest.raises(UnsupportedModelError, match=r"of 2 blocks, expected 3.*it has model"):
        find_gate_matrices(open_checkpoint(directory))


def test_an_unknown_family_is_refused_by_name(tmp_path: Path) -> None:
    directory = change(
        write_tiny_model(tmp_path / "base"), lambda config: config.update(model_type="rwkv9")
    )
    with pytest.raises(UnsupportedModelError, match="no layout for model type 'rwkv9'; it has"):
        find_gate_matrices(open_checkpoint(directory))


@pytest.mark.parametrize(
    ("ending", "method"),
    [
        ("qweight", "GPTQ or AWQ"),
        ("weight_scale_inv", "FP8"),
        ("weight.absmax", "bitsandbytes"),
        ("weight_packed", "compressed-tensors"),
    ],
)
def test_weights_with_names_of_quantization_are_refused_even_if_config_is_silent(
    ending: str, method: str, tmp_path: Path
) -> None:
    name = f"model.layers.0.mlp.gate_proj.{ending}"
    directory = change(
        write_tiny_model(tmp_path / "base"),
        edit_tensors=lambda tensors: tensors.update({name: torch.ones(4)}),
    )
    with pytest.raises(UnsupportedModelError, match=rf"quantized \({method}\)"):
        find_gate_matrices(open_checkpoint(directory))


OWN_LAYOUT = """
title: our own
prefixes: ["brain.{block}."]
blocks:
  dense:
    - branch: mlp
      spellings: [{name: opener.weight}]
"""


def test_a_user_describes_a_family_of_their_own(tmp_path: Path) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for block in range(3):
            old = f"model.layers.{block}.mlp.gate_proj.weight"
            tensors[f"brain.{block}.opener.weight"] = tensors.pop(old)

    directory = change(
        write_tiny_model(tmp_path / "base"),
        lambda config: config.update(model_type="ours"),
        rename,
    )
    (tmp_path / "layout.yaml").write_text(OWN_LAYOUT)
    layout = load_layout(tmp_path / "layout.yaml")
    gates = find_gate_matrices(open_checkpoint(directory), layout)
    assert [gate.tensor for gate in gates] == [f"brain.{block}.opener.weight" for block in range(3)]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (OWN_LAYOUT.replace("{block}", "0"), "expected {block} in it"),
        (OWN_LAYOUT.replace("prefixes", "prefixs"), "did you mean 'prefixes'"),
        (OWN_LAYOUT.replace("opener.weight", "'{expert}.{expert}'"), "at most once"),
        ("- a list", "expected keys and values"),
    ],
)
def test_a_wrong_layout_is_refused_by_its_key(wrong: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "layout.yaml").write_text(wrong)
    with pytest.raises(RecipeError, match=says):
        load_layout(tmp_path / "layout.yaml")


def test_a_quantized_model_is_refused(tmp_path: Path) -> None:
    directory = change(
        write_tiny_model(tmp_path / "base"),
        lambda config: config.update(quantization_config={"quant_method": "gptq"}),
    )
    with pytest.raises(UnsupportedModelError, match="quantized"):
        find_gate_matrices(open_checkpoint(directory))


def test_integer_gate_weights_are_refused(tmp_path: Path) -> None:
    name = "model.layers.2.mlp.gate_proj.weight"
    directory = change(
        write_tiny_model(tmp_path / "base"),
        edit_tensors=lambda tensors: tensors.update({name: torch.ones(48, 32, dtype=torch.int8)}),
    )
    with pytest.raises(UnsupportedModelError, match="stored as I8"):
        find_gate_matrices(open_checkpoint(directory))
