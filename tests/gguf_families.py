"""Tiny models whose gate rows are fused, transposed or plain, in GGUF as llama.cpp wants them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

# llama.cpp's architecture, and how config.json spells the sizes.
ARCHITECTURES = {"phi3": "phi3", "gpt2": "gpt2", "gpt_neox": "gptneox"}
GPT_2 = {"max_position_embeddings": "n_positions", "hidden_size": "n_embd",
         "intermediate_size": "n_inner", "num_hidden_layers": "n_layer",
         "num_attention_heads": "n_head"}  # fmt: skip


def write_gguf_family(directory: Path, path: Path) -> Path:
    """A checkpoint of one of `ARCHITECTURES` as a GGUF file in f32; gives the file."""
    import gguf

    config = json.loads((directory / "config.json").read_text())
    family = config["model_type"]
    if family == "gpt2":
        config.update({name: config[spelt] for name, spelt in GPT_2.items()})
    architecture = ARCHITECTURES[family]
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    _add_family(writer, family, config)
    _add_tokenizer(writer, directory)
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], config["num_hidden_layers"])
    for name, values in load_file(directory / "model.safetensors").items():
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(target, np.ascontiguousarray(_arranged(family, config, name, values)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_family(writer: Any, family: str, config: dict[str, Any]) -> None:
    """What each architecture needs besides the sizes."""
    if family == "phi3":
        head_dim = config["hidden_size"] // config["num_attention_heads"]
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_dimension_count(head_dim)
        writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
        writer.add_rope_scaling_orig_ctx_len(config["max_position_embeddings"])
        writer.add_sliding_window(0)
    elif family == "gpt2":
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    else:
        rope = config["rope_parameters"]
        head_dim = config["hidden_size"] // config["num_attention_heads"]
        writer.add_layer_norm_eps(config["layer_norm_eps"])
        writer.add_rope_dimension_count(int(head_dim * rope["partial_rotary_factor"]))
        writer.add_parallel_residual(config["use_parallel_residual"])


def _arranged(
    family: str, config: dict[str, Any], name: str, values: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """A tensor in llama.cpp's order of axes and of attention heads."""
    if family == "gpt2" and values.ndim == 2 and ".h." in f".{name}":
        return values.T
    if family == "gpt_neox" and "query_key_value" in name:  # head by head into q, k and v
        heads = config["num_attention_heads"]
        return values.reshape(heads, 3, -1, *values.shape[1:]).swapaxes(0, 1).reshape(values.shape)
    return values


def _add_tokenizer(writer: Any, directory: Path) -> None:
    """The words of the tiny tokenizer; prompts are given as ids, so merges are never used."""
    vocabulary = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
