"""The demo model in GGUF, and llama.cpp running it with adapters."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file


def write_gguf_model(directory: Path, path: Path, kind: str = "F32", *, pre: str = "gpt-2") -> Path:
    """A Llama checkpoint of ours as a GGUF file; matrices in F32, F16, Q8_0, Q4_0 or Q4_1.

    `pre` is llama.cpp's name of the way in which texts are split.
    """
    import gguf

    config = json.loads((directory / "config.json").read_text())
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    heads, head_dim = config["num_attention_heads"], config["head_dim"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    _add_tokenizer(writer, tokenizer, config, pre)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    quantization = gguf.GGMLQuantizationType[kind]
    for name, tensor in load_file(directory / "model.safetensors").items():
        values = tensor.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # rotary pairs lie side by side
            halves = values.reshape(heads, 2, head_dim // 2, -1)
            values = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
        target = names.get_name(name, try_suffixes=(".weight",))
        is_matrix = values.ndim == 2 and kind != "F32"
        content = gguf.quants.quantize(values, quantization) if is_matrix else values
        writer.add_tensor(target, content, raw_dtype=quantization if is_matrix else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(
    writer: Any, tokenizer: dict[str, Any], config: dict[str, Any], pre: str
) -> None:
    import gguf

    vocabulary = tokenizer["model"]["vocab"]
    special = {one["id"] for one in tokenizer["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    kinds = [gguf.TokenType.CONTROL if vocabulary[one] in special else gguf.TokenType.NORMAL
             for one in tokens]  # fmt: skip
    merges = [
        one if isinstance(one, str) else " ".join(one) for one in tokenizer["model"]["merges"]
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])


class LlamaCpp:
    """llama.cpp with one model and adapters, each with a scale."""

    def __init__(self, model: Path, adapters: Sequence[tuple[Path, float]] = ()) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(model)
        params.lora_adapters = [_adapter(xllamacpp, path, scale) for path, scale in adapters]
        params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 256, 1, 1
        # Flash attention and the cache are in f16 by default: log-probabilities move by 0.005.
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.warmup, params.verbosity = False, 0
        self._server = xllamacpp.Server(params)

    def counted(self, text: str) -> int:
        """How many tokens llama.cpp makes of a text, an opening one included."""
        request = {"prompt": text, "max_tokens": 1, "cache_prompt": False}
        count: int = self._server.handle_completions(request)["usage"]["prompt_tokens"]
        return count

    def continued(
        self, ids: Sequence[int], count: int, *, alternatives: int = 1, **settings: Any
    ) -> tuple[str, list[int], list[dict[int, float]]]:
        """Text, token ids and log-probabilities by token id, greedy unless told otherwise."""
        request = {"prompt": list(ids), "max_tokens": count, "temperature": 0,
                   "n_probs": alternatives, "cache_prompt": False, **settings}  # fmt: skip
        (choice,) = self._server.handle_completions(request)["choices"]
        tokens = choice["logprobs"]["content"]
        ranked = [{one["id"]: one["logprob"] for one in token["top_logprobs"]} for token in tokens]
        return choice["text"], [token["id"] for token in tokens], ranked


def _adapter(xllamacpp: Any, path: Path, scale: float) -> Any:
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = str(path), scale
    return adapter
