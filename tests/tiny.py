"""Tiny random models of each family, built in the test and written as transformers writes them."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

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
FAMILIES = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "gemma": transformers.GemmaConfig,
    "gemma2": transformers.Gemma2Config,
    "gemma3_text": transformers.Gemma3TextConfig,
}


def write_tiny_model(
    directory: Path,
    family: str = "llama",
    *,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
    seed: int = 0,
    **overrides: Any,
) -> Path:
    """Write a random model with a word-level tokenizer; gives the directory."""
    config = FAMILIES[family](**{**COMMON, **overrides})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def tiny_tokenizer() -> transformers.PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
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
