"""Checkpoints as GGUF files with what surgery needs, arranged as llama.cpp's converter does it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from modelsurgery.checkpoint.gguf_files import architecture_of

ARCHITECTURES = {"mixtral": "llama", "llama4_text": "llama4"}
SPELLINGS = {
    "embedding_length": ("hidden_size", "n_embd"),
    "block_count": ("num_hidden_layers", "n_layer"),
    "feed_forward_length": ("intermediate_size", "n_inner"),
    "expert_count": ("num_local_experts", "num_experts", "n_routed_experts"),
}
UNWRITTEN = ("NVFP4", "Q8_1", "IQ2_XXS", "IQ3_S")
ONE_EXPERT = re.compile(r".*?(\d+)\..*experts\.(\d+)\.(gate_proj|w1)\.weight")
DENSE = re.compile(r"model\.layers\.(\d+)\.mlp\.gate_proj\.weight")
ALL_EXPERTS = re.compile(
    r".*?(\d+)\.(.*experts\.gate_up_proj|block_sparse_moe.input_linear.weight)"
)


def write_gguf(
    directory: Path,
    path: Path,
    kind: str = "F32",
    *,
    tensors_a_file: int = 0,
    chat_template: str | None = None,
) -> Path:
    """A safetensors checkpoint as GGUF, matrices in a type; gives the (first) file.

    Tensors without a counterpart are left out, and so are experts' other matrices and all that
    llama.cpp needs to run. `tensors_a_file` splits the model.
    """
    import gguf

    config = json.loads((directory / "config.json").read_text())
    config = {**config, **config.get("text_config", {})}
    family = config["model_type"]
    architecture = ARCHITECTURES.get(family) or architecture_of(family)
    writer = gguf.GGUFWriter(str(path), architecture, split_max_tensors=tensors_a_file)
    for key, spelled in SPELLINGS.items():
        value = next((config[name] for name in spelled if config.get(name)), None)
        if value is not None:
            writer.add_uint32(f"{architecture}.{key}", value)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    kinds = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], 8)
    for name, values in _arranged(directory, family).items():
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        target = name if name.startswith("blk.") else target
        if target is not None:
            _add(writer, target, values, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if path.exists() else next(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))


def _add(writer: Any, name: str, values: np.ndarray[Any, Any], kind: str) -> None:
    import gguf

    number = gguf.GGMLQuantizationType[kind]
    in_a_block, _ = gguf.GGML_QUANT_SIZES[number]
    if values.ndim == 1 or kind == "F32" or values.shape[-1] % in_a_block:
        writer.add_tensor(name, values)
        return
    writer.add_tensor(name, quantized(values, kind), raw_dtype=number)


def quantized(values: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    """Values in the bytes of a type, by the gguf package or by ggml; zeros where neither can."""
    import gguf

    from modelsurgery.checkpoint.ggml import ggml_quantized
    from modelsurgery.checkpoint.quantized import BY_GGML

    if kind in UNWRITTEN:
        in_a_block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
        return np.zeros((*values.shape[:-1], values.shape[-1] // in_a_block * size), np.uint8)
    if kind not in BY_GGML:
        return gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    rows = ggml_quantized(values.reshape(-1, values.shape[-1]), kind)
    return rows.reshape(*values.shape[:-1], -1)


def _arranged(directory: Path, family: str) -> dict[str, np.ndarray[Any, Any]]:
    """Tensors in f32, by our name or llama.cpp's; gate matrices of experts as one tensor."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    experts: dict[str, dict[int, np.ndarray[Any, Any]]] = {}
    for name, tensor in sorted(load_file(directory / "model.safetensors").items()):
        values = tensor.to(torch.float32).numpy()
        target = "blk.{}.ffn_gate_exps.weight"
        if one := ONE_EXPERT.fullmatch(name):
            experts.setdefault(target.format(one[1]), {})[int(one[2])] = values
        elif many := ALL_EXPERTS.fullmatch(name):
            found[target.format(many[1])] = np.ascontiguousarray(_gates(values, family))
        elif dense := DENSE.fullmatch(
            name
        ):  # also in mixtures of which llama.cpp knows no such block
            found[f"blk.{dense[1]}.ffn_gate.weight"] = values
        elif "experts." not in name or "shared" in name:
            turned = family == "gpt2" and values.ndim == 2 and ".h." in f".{name}"
            found[name] = np.ascontiguousarray(values.T if turned else values)
    for name, by_number in experts.items():
        found[name] = np.stack([by_number[number] for number in sorted(by_number)])
    return found


def _gates(values: np.ndarray[Any, Any], family: str) -> np.ndarray[Any, Any]:
    """The gate half of all experts, [experts, rows, d]."""
    if family == "gpt_oss":
        return values[..., ::2].swapaxes(1, 2)
    if family.startswith("llama4"):
        return values[..., : values.shape[-1] // 2].swapaxes(1, 2)
    return values[:, : values.shape[1] // 2]
