"""Tiny random models of every family, built in the test and written as transformers writes them."""

import atexit
import hashlib
import json
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.rows import Rows, RowView, Weights

TEXT = (
    "the a cat dog sun rain house tree happy sad kind rude good bad big small runs sits sings "
    "cries and but so very my your friend neighbor is was are in on under today tomorrow"
)
WORDS = tuple(TEXT.split())
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
COMMON: dict[str, Any] = {
    "vocab_size": len(SPECIAL) + len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Families of the first release; tests that repeat a whole surgery for each family take these.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")

OMIT: Any = object()  # a setting of COMMON that the family's configuration does not take
# Every token goes to every expert, so that a test reaches them all.
ALL_EXPERTS = {"num_experts_per_tok": 4, "moe_intermediate_size": 24}
ROUTED = {**ALL_EXPERTS, "n_routed_experts": 4, "n_shared_experts": 2, "first_k_dense_replace": 1}
ROUTED_IN_GROUPS = {**ROUTED, "n_group": 1, "topk_group": 1}
DEEPSEEK = {
    **ROUTED_IN_GROUPS,
    "head_dim": OMIT,
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8}
LINEAR_ATTENTION = {
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
QWEN_NEXT = {
    **ALL_EXPERTS,
    **LINEAR_ATTENTION,
    "num_experts": 4,
    "shared_expert_intermediate_size": 40,
}
GEMMA_4 = {
    "global_head_dim": 8,
    "vocab_size_per_layer_input": 40,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 4,
    "moe_intermediate_size": 24,
}
LLAMA_4 = {
    "num_local_experts": 4,
    "num_experts_per_tok": 4,
    "intermediate_size": 24,
    "intermediate_size_mlp": 48,
    "interleave_moe_layer_step": 2,
}
SECTIONS = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
}

# What a family's configuration takes besides COMMON, by model_type.
SETTINGS: dict[str, dict[str, Any]] = {
    **{family: {} for family in FAMILIES},
    "apertus": {},
    "arcee": {},
    "bloom": {"intermediate_size": OMIT},
    "cohere": {},
    "cohere2": {},
    "deepseek_v2": {**DEEPSEEK, "topk_method": "greedy"},
    "deepseek_v3": {**DEEPSEEK, "num_nextn_predict_layers": 1},
    "dots1": ROUTED_IN_GROUPS,
    "ernie4_5": {},
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 4, "moe_intermediate_size": 24},
    "exaone4": {},
    "falcon": {"ffn_hidden_size": 48, "head_dim": OMIT},
    "gemma4_text": GEMMA_4,
    "glm": {},
    "glm4": {},
    "glm4_moe": {**ROUTED_IN_GROUPS, "num_nextn_predict_layers": 1},
    "glm4_moe_lite": DEEPSEEK,
    "gpt2": {"n_inner": 48},
    "gpt_bigcode": {"n_inner": 48},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "num_hidden_layers": 4},
    "gpt_neox": {},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 4},
    "gptj": {"rotary_dim": 4, "n_inner": 48},
    "granite": {},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 4},
    "granitemoehybrid": {
        **MAMBA,
        "num_local_experts": 4,
        "num_experts_per_tok": 4,
        "shared_intermediate_size": 40,
        "layer_types": ["mamba", "attention", "mamba"],
    },
    "granitemoeshared": {
        "num_local_experts": 4,
        "num_experts_per_tok": 4,
        "shared_intermediate_size": 40,
    },
    "helium": {},
    "hunyuan_v1_dense": {},
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 4},
    "jamba": {
        "num_experts": 4,
        "num_experts_per_tok": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "use_mamba_kernels": False,
    },
    "lfm2": {
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["conv", "full_attention", "conv"],
    },
    "lfm2_moe": {
        **ALL_EXPERTS,
        "num_experts": 4,
        "num_dense_layers": 1,
        "layer_types": ["conv", "full_attention", "conv"],
    },
    "llama4_text": LLAMA_4,
    "minimax_m2": {"num_local_experts": 4, "num_experts_per_tok": 4},
    "ministral": {},
    "ministral3": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 128,
        }
    },
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 4},
    "mpt": {"intermediate_size": OMIT},
    "nemotron": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": {},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "phi": {},
    "phi3": {},
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 4},
    "qwen2_moe": {
        **ALL_EXPERTS,
        "num_experts": 4,
        "shared_expert_intermediate_size": 40,
        "mlp_only_layers": [0],
    },
    "qwen3_5_moe_text": QWEN_NEXT,
    "qwen3_5_text": LINEAR_ATTENTION,
    "qwen3_moe": {**ALL_EXPERTS, "num_experts": 4, "mlp_only_layers": [0]},
    "qwen3_next": {**QWEN_NEXT, "mlp_only_layers": [0]},
    "seed_oss": {},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
}

TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
QWEN_TOWER = {
    "depth": 1,
    "hidden_size": 16,
    "out_hidden_size": 32,
    "num_heads": 2,
    "intermediate_size": 24,
    "patch_size": 8,
    "num_position_embeddings": 16,
}
# Settings of the text part and of the vision tower.
VISION_LANGUAGE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "aya_vision": ({"model_type": "cohere2"}, {**TOWER, "model_type": "siglip_vision_model"}),
    "gemma3": ({}, TOWER),
    "gemma4": (GEMMA_4, TOWER),
    "idefics3": ({"model_type": "llama"}, TOWER),
    "internvl": (
        {"model_type": "qwen2"},
        {**TOWER, "image_size": [16, 16], "patch_size": [8, 8], "model_type": "internvl_vision"},
    ),
    "llama4": (
        LLAMA_4,
        {
            **TOWER,
            "vision_output_dim": 16,
            "projector_input_dim": 16,
            "projector_output_dim": 16,
        },
    ),
    "llava": ({"model_type": "llama"}, {**TOWER, "model_type": "clip_vision_model"}),
    "llava_next": ({"model_type": "mistral"}, {**TOWER, "model_type": "clip_vision_model"}),
    "llava_onevision": ({"model_type": "qwen2"}, {**TOWER, "model_type": "siglip_vision_model"}),
    "mistral3": (
        {"model_type": "mistral"},
        {**TOWER, "head_dim": 8, "model_type": "pixtral"},
    ),
    "paligemma": (
        {"model_type": "gemma"},
        {**TOWER, "projection_dim": 32, "model_type": "siglip_vision_model"},
    ),
    "qwen2_5_vl": (SECTIONS, {**QWEN_TOWER, "fullatt_block_indexes": [0]}),
    "qwen2_vl": (
        SECTIONS,
        {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1},
    ),
    "qwen3_5": (LINEAR_ATTENTION, QWEN_TOWER),
    "qwen3_5_moe": (QWEN_NEXT, QWEN_TOWER),
    "qwen3_vl": (SECTIONS, {**QWEN_TOWER, "deepstack_visual_indexes": [0]}),
    "qwen3_vl_moe": (
        {**SECTIONS, **ALL_EXPERTS, "num_experts": 4},
        {**QWEN_TOWER, "deepstack_visual_indexes": [0]},
    ),
    "smolvlm": ({"model_type": "llama"}, TOWER),
}

# Families without a class in transformers: like a known one, with other names in the file.
REMOTE_CODE = {
    "deepseek": ("deepseek_v2", {}),
    "internlm": ("llama", {}),
    "internlm2": (
        "llama",
        {
            r"mlp\.gate_proj": "feed_forward.w1",
            r"mlp\.up_proj": "feed_forward.w3",
            r"mlp\.down_proj": "feed_forward.w2",
            r"self_attn\.o_proj": "attention.wo",
        },
    ),
    "internlm3": ("llama", {}),
}
ALL_FAMILIES = tuple(sorted({*SETTINGS, *VISION_LANGUAGE, *REMOTE_CODE}))


def write_tiny_model(
    directory: Path,
    family: str = "llama",
    *,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
    seed: int = 0,
    **overrides: Any,
) -> Path:
    """Write a random model with a word-level tokenizer; gives the directory.

    Each is made once and copied from then on, so that it may be changed where it is.
    """
    options = repr((dtype, max_shard_size, seed, sorted(overrides.items())))
    kept = _kept() / hashlib.sha256(f"{family} {options}".encode()).hexdigest()
    if not kept.is_dir():
        _make_tiny_model(kept, family, dtype, max_shard_size, seed, overrides)
    shutil.copytree(kept, directory, dirs_exist_ok=True)
    return directory


@cache
def _kept() -> Path:
    """A directory for models that ends with this process."""
    directory = tempfile.TemporaryDirectory()
    atexit.register(directory.cleanup)
    return Path(directory.name)


def _make_tiny_model(
    directory: Path,
    family: str,
    dtype: torch.dtype,
    max_shard_size: str,
    seed: int,
    overrides: dict[str, Any],
) -> None:
    like, renamed = REMOTE_CODE.get(family, (family, {}))
    config = tiny_config(like, **overrides)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = auto_class(like).from_config(config)
        if like not in FAMILIES:
            fill(model)
    if dtype != torch.float32:  # even to f32, .to() warns about complex buffers of Llama 4
        model = model.to(dtype)
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    tiny_tokenizer().save_pretrained(directory)
    if like != family:
        rename_tensors(directory, renamed)
        relabel(directory, family)


def tiny_config(family: str, **overrides: Any) -> transformers.PreTrainedConfig:
    """The configuration of a tiny model; `overrides` are for its text part."""
    cls = type(transformers.AutoConfig.for_model(family))
    text, tower = VISION_LANGUAGE.get(family) or (SETTINGS[family], None)
    settings = {**COMMON, **text, **overrides}
    settings = {name: value for name, value in settings.items() if value is not OMIT}
    if tower is None:
        return cls(**settings)
    words = COMMON["vocab_size"]
    tokens = {"image_token_id": words - 1, "image_token_index": words - 1}
    return cls(text_config=settings, vision_config=dict(tower), **tokens)


def auto_class(family: str) -> Any:
    """The class with which a model of this family is loaded."""
    if family in VISION_LANGUAGE:
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


def fill(model: torch.nn.Module) -> None:
    """Make all rows of all matrices different: some families leave new ones empty or zero.

    The seven of `FAMILIES` do not, and other tests were written with the weights that they get.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.05)


def read_rows(checkpoint: Checkpoint, view: RowView) -> Rows:
    """All rows of a matrix, [rows, columns] in the stored dtype."""
    with Weights(checkpoint) as weights:
        return weights.read(view, np.arange(view.rows))


def rename_tensors(directory: Path, patterns: dict[str, str]) -> None:
    """Replace patterns in the tensor names of a model in one file."""
    path = directory / "model.safetensors"
    tensors = {}
    for name, tensor in load_file(path).items():
        for pattern, replacement in patterns.items():
            name = re.sub(pattern, replacement, name)
        tensors[name] = tensor
    save_file(tensors, path, {"format": "pt"})


def relabel(directory: Path, model_type: str) -> None:
    """Give the configuration another model type."""
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "model_type": model_type}), encoding="utf-8")


def tiny_tokenizer(*more_words: str) -> transformers.PreTrainedTokenizerFast:
    words = (*SPECIAL, *WORDS, *more_words)
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def tiny_sentences(count: int, seed: int = 0) -> list[str]:
    """Different sentences of known words, of 3 to 12 words."""
    generator = torch.Generator().manual_seed(seed)
    sentences: dict[str, None] = {}
    while len(sentences) < count:
        length = int(torch.randint(3, 13, (1,), generator=generator))
        chosen = torch.randint(len(WORDS), (length,), generator=generator)
        sentences.setdefault(" ".join(WORDS[number] for number in chosen.tolist()))
    return list(sentences)
