"""A GGUF file, or a set of them, as tensors on disk with a configuration made of its metadata."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from modelsurgery.checkpoint.gguf_header import GgufHeader, read_gguf_header
from modelsurgery.checkpoint.header import StoredTensor
from modelsurgery.checkpoint.place import Place
from modelsurgery.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError

ARCHITECTURE_KEY = "gguf_architecture"
# llama.cpp's architectures that transformers' `model_type` spells otherwise.
MODEL_TYPES = {
    "command-r": "cohere",
    "chatglm": "glm",
    "deepseek2": "deepseek_v2",
    "ernie4_5-moe": "ernie4_5_moe",
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "glm4moe": "glm4_moe",
    "gpt-oss": "gpt_oss",
    "gptneox": "gpt_neox",
    "hunyuan-dense": "hunyuan_v1_dense",
    "hunyuan-moe": "hunyuan_v1_moe",
    "lfm2moe": "lfm2_moe",
    "minimax-m2": "minimax_m2",
    "mistral3": "ministral3",
    "phi2": "phi",
    "qwen2moe": "qwen2_moe",
    "qwen2vl": "qwen2_vl",
    "qwen35": "qwen3_5_text",
    "qwen35moe": "qwen3_5_moe_text",
    "qwen3moe": "qwen3_moe",
    "qwen3next": "qwen3_next",
    "qwen3vl": "qwen3_vl",
    "qwen3vlmoe": "qwen3_vl_moe",
    "starcoder": "gpt_bigcode",
}
# Further model types that llama.cpp's converter makes files of the same architectures of.
CONVERTED = {
    "internlm3": "llama",
    "mistral": "llama",
    "olmo3": "olmo2",
    "qwen2_5_vl": "qwen2vl",
    "qwen3_5": "qwen35",
}
ARCHITECTURES = {**{kind: name for name, kind in MODEL_TYPES.items()}, **CONVERTED}
# Keys of config.json and of GGUF, after the architecture's name.
KEYS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "vocab_size": "vocab_size",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "num_nextn_predict_layers": "nextn_predict_layers",
}


def architecture_of(model_type: str) -> str:
    """llama.cpp's architecture of a `model_type` of config.json, if there is one."""
    return ARCHITECTURES.get(model_type, model_type)


def read_gguf_files(place: Place) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    """Configuration and tensors by name of the GGUF files of a place.

    Raises:
        ModelNotFoundError: a file is missing.
        UnsupportedModelError: it holds no language model: an adapter, a projector, a vocabulary.
        CheckpointError: a header is damaged, or the files of a set do not belong together.
    """
    tensors: dict[str, StoredTensor] = {}
    metadata: dict[str, Any] = {}
    for number, name in enumerate(place.gguf_names):
        path = place.path(name)
        if not path.is_file():
            raise ModelNotFoundError(f"no model file at {path}")
        header = read_gguf_header(path)
        _check_split(place, path, number, header)
        for tensor in header.tensors.values():
            if tensor.name in tensors:
                raise CheckpointError(
                    f"{path}: {tensor.name!r} is in another file of the set too; fetch them again"
                )
            tensors[tensor.name] = replace(tensor, file=name)
        metadata = metadata or header.metadata
    return _configuration(place.model, metadata, tensors), tensors


def _check_split(place: Place, path: Path, number: int, header: GgufHeader) -> None:
    count, this = (header.metadata.get(f"split.{key}", 0) for key in ("count", "no"))
    expected = (place.splits or 1, number)
    if (max(count, 1) if type(count) is int else count, this) != expected:
        raise CheckpointError(
            f"{path}: it says that it is file {this!r} (from 0) of {count!r}, and its name "
            f"{number} of {place.splits or 1}; give a set of GGUF files the names that they had"
        )


def _configuration(
    path: Path, metadata: dict[str, Any], tensors: dict[str, StoredTensor]
) -> dict[str, Any]:
    """What config.json would say, as far as it is needed to find rows."""
    architecture = metadata.get("general.architecture")
    kind = metadata.get("general.type", "model")
    if not isinstance(architecture, str) or kind != "model" or not tensors:
        raise UnsupportedModelError(
            f"{path}: a GGUF file of type {kind!r}, architecture {architecture!r}, with "
            f"{len(tensors)} tensors; expected a language model"
        )
    config: dict[str, Any] = {
        "model_type": MODEL_TYPES.get(architecture, architecture),
        ARCHITECTURE_KEY: architecture,
        "has_shared_experts": any("ffn_gate_shexp" in name for name in tensors),
    }
    said = {key: metadata.get(f"{architecture}.{spelled}") for key, spelled in KEYS.items()}
    config |= {key: value for key, value in said.items() if value is not None}
    further, blocks = config.get("num_nextn_predict_layers"), config.get("num_hidden_layers")
    if type(further) is type(blocks) is int and blocks > further:
        config["num_hidden_layers"] = blocks - further  # llama.cpp counts them in
    return config
