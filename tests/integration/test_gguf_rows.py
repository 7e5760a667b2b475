"""GGUF files as checkpoints: gate rows are where the safetensors of the same model have them."""

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch

from gguf_tiny import quantized, write_gguf
from modelsurgery import find_gate_matrices, open_checkpoint
from modelsurgery.checkpoint import ggml
from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.ggml import ggml_quantized
from modelsurgery.checkpoint.layouts import Address
from modelsurgery.checkpoint.quantized import (
    BY_GGML,
    BY_THE_PACKAGE,
    QUANTIZED_DTYPES,
    dequantized,
)
from modelsurgery.checkpoint.quantized import quantized as quantized_rows
from modelsurgery.checkpoint.rows import ROW_DTYPES, widened
from modelsurgery.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError
from tiny import read_rows, write_tiny_model

FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "granite", "cohere2"),
    *("phi3", "glm4", "gpt2", "gpt_neox", "phi", "falcon", "bloom", "starcoder2", "nemotron"),
    *("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "glm4_moe", "dots1"),
    *("gpt_oss", "granitemoe", "jamba", "llama4_text", "gemma4_text", "lfm2_moe"),
)


def gate_rows(checkpoint: Checkpoint) -> dict[Address, np.ndarray]:
    gates = find_gate_matrices(checkpoint)
    return {gate.address: widened(read_rows(checkpoint, gate.view)) for gate in gates}


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_every_family_have_the_same_addresses(family: str, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model", family)
    expected = gate_rows(open_checkpoint(model))
    found = gate_rows(open_checkpoint(write_gguf(model, tmp_path / "model.gguf")))
    assert found.keys() == expected.keys()
    for address, rows in expected.items():
        np.testing.assert_array_equal(found[address], rows)


@pytest.mark.parametrize("kind", [name for name in ROW_DTYPES if name != "F32"])
def test_rows_of_every_type_are_those_of_the_reference(kind: str, tmp_path: Path) -> None:
    import gguf

    model = write_tiny_model(tmp_path / "model", "llama", hidden_size=256, intermediate_size=64)
    expected = gate_rows(open_checkpoint(model))
    found = gate_rows(open_checkpoint(write_gguf(model, tmp_path / "model.gguf", kind)))
    for address, rows in expected.items():
        number = gguf.GGMLQuantizationType[kind]
        reference = gguf.quants.dequantize(quantized(rows, kind), number)
        np.testing.assert_array_equal(found[address], reference)


@pytest.mark.parametrize("family", ["mixtral", "phi3"])
def test_parts_of_quantized_tensors(family: str, tmp_path: Path) -> None:
    """One expert of many, and the first half of a fused matrix, in blocks."""
    model = write_tiny_model(tmp_path / "model", family)
    expected = gate_rows(open_checkpoint(model))
    found = gate_rows(open_checkpoint(write_gguf(model, tmp_path / "model.gguf", "Q8_0")))
    for address, rows in expected.items():
        assert found[address].shape == rows.shape
        assert np.abs(found[address] - rows).max() <= np.abs(rows).max() / 127


def test_any_file_of_a_set_is_the_model(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model", "llama")
    whole = gate_rows(open_checkpoint(write_gguf(model, tmp_path / "whole.gguf", "Q4_0")))
    first = write_gguf(model, tmp_path / "parts.gguf", "Q4_0", tensors_a_file=8)
    files = sorted(tmp_path.glob("parts-*.gguf"))
    assert len(files) > 2
    assert files[0] == first
    for file in files:
        found = gate_rows(open_checkpoint(file))
        assert all(np.array_equal(found[address], rows) for address, rows in whole.items())
    files[1].rename(tmp_path / "elsewhere.gguf")
    with pytest.raises(ModelNotFoundError, match=r"no model file at .*00002"):
        open_checkpoint(first)
    with pytest.raises(CheckpointError, match="names that they had"):
        open_checkpoint(tmp_path / "elsewhere.gguf")


def test_what_is_no_language_model_is_refused(tmp_path: Path) -> None:
    import gguf

    for kind, architecture in (("adapter", "llama"), ("model", "whisper")):
        path = tmp_path / f"{kind}.gguf"
        writer = gguf.GGUFWriter(str(path), architecture)
        writer.add_type(kind)
        writer.add_tensor("blk.0.ffn_gate.weight", torch.zeros(32, 32).numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(UnsupportedModelError, match=r"expected a language model|no layout"):
            find_gate_matrices(open_checkpoint(path))


def test_types_that_nothing_quantizes_to_are_refused_by_name(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model", "llama", hidden_size=256, intermediate_size=64)
    path = write_gguf(model, tmp_path / "model.gguf", "TQ1_0")
    with pytest.raises(
        UnsupportedModelError, match=r"is stored as TQ1_0; expected F32, F16, BF16.* an adapter"
    ):
        find_gate_matrices(open_checkpoint(path))


@pytest.mark.parametrize("kind", [*BY_THE_PACKAGE, *BY_GGML])
def test_values_and_bytes_are_those_of_ggml(kind: str) -> None:
    """What llama.cpp will read of what is written here."""
    library = ggml._library()
    assert library is not None
    generator = np.random.default_rng(0)
    scales = np.repeat([1.0, 0.02, 1e-4], 64)[:, None]
    values = (generator.standard_normal((192, 512)) * scales).astype(np.float32)
    blocks = quantized_rows(values, QUANTIZED_DTYPES[kind])
    content = ggml_quantized(values, kind)
    assert blocks.tobytes() == content.tobytes()
    name = kind.removesuffix("K").lower() + "K" if kind.endswith("_K") else kind.lower()
    found = np.empty_like(values)
    place, target = (ctypes.c_void_p(one.ctypes.data) for one in (content, found))
    getattr(library, f"dequantize_row_{name}")(place, target, ctypes.c_int64(values.size))
    np.testing.assert_array_equal(dequantized(blocks), found)


def test_rows_of_broken_blocks_never_reach_ggml() -> None:
    with pytest.raises(ValueError, match="rows of 300 values; Q4_K has blocks of 256"):
        ggml_quantized(np.zeros((2, 300), np.float32), "Q4_K")
