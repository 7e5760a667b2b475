"""The lens against the model's own norm and head, and tokens as people read them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models

from modelsurgery import load_model
from modelsurgery.data.demo.lexicon import markers
from modelsurgery.errors import UnsupportedModelError
from modelsurgery.interpret.lens import read_tokens, relative_lengths, token_logits
from modelsurgery.interpret.tokens import are_offensive, readable
from tiny import write_tiny_model

D = 32
# Where the final norm is, and what the model does to the logits, by family: RMS norms with one
# added to the weight (Gemma), layer norms, a bias of the head (GPT-J, Phi), soft-caps, scales.
FINAL_NORMS = {
    "llama": "model.norm",
    "gemma2": "model.norm",
    "cohere": "model.norm",
    "granite": "model.norm",
    "olmo": "model.norm",
    "nemotron": "model.norm",
    "gpt2": "transformer.ln_f",
    "gpt_neo": "transformer.ln_f",
    "gptj": "transformer.ln_f",
    "phi": "model.final_layernorm",
    "opt": "model.decoder.final_layer_norm",
    "mpt": "transformer.norm_f",
    "lfm2": "model.embedding_norm",
    "mixtral": "model.norm",
    "llama4_text": "model.norm",
    "gemma3": "model.language_model.norm",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "gemma2": {"final_logit_softcapping": 3.0},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0},
}


@pytest.mark.parametrize("family", FINAL_NORMS)
def test_logits_are_those_of_the_models_own_norm_and_head(family: str, tmp_path: Path) -> None:
    settings = SETTINGS.get(family, {})
    model = load_model(write_tiny_model(tmp_path / "model", family, **settings))
    norm = model.model.get_submodule(FINAL_NORMS[family])
    head = model.model.get_output_embeddings()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # what families leave at one or zero should not hide a mistake
        for module in (norm, head):
            for name in ("weight", "bias"):
                if getattr(module, name, None) is not None and (module is norm or name == "bias"):
                    getattr(module, name).normal_(0.5, 0.3, generator=generator)
    vectors = torch.randn(3, D, generator=generator)

    def direct(states: torch.Tensor) -> torch.Tensor:
        logits = head(norm(states))
        logits = logits * settings.get("logit_scale", 1.0) / settings.get("logits_scaling", 1.0)
        cap = settings.get("final_logit_softcapping")
        return logits if cap is None else cap * torch.tanh(logits / cap)

    with torch.inference_mode():
        found = token_logits(model, vectors)
        units = vectors / vectors.pow(2).mean(1, keepdim=True).sqrt()
        expected = direct(units) - direct(torch.zeros(1, D))
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-4)
    assert found.std() > 0.01
    assert torch.allclose(token_logits(model, -7 * vectors), -found, atol=1e-5)


def test_blocks_that_are_in_no_list_are_refused_by_name(tiny_llama: Path) -> None:
    model = load_model(tiny_llama)
    model.model.model.layers = torch.nn.Sequential(*model.model.model.layers)
    with pytest.raises(UnsupportedModelError, match=r"model\.layers is a Sequential"):
        token_logits(model, torch.ones(1, 32))


def test_both_ends_are_the_highest_and_the_lowest_tokens(tiny_llama: Path) -> None:
    model = load_model(tiny_llama)
    vectors = torch.randn(4, D, generator=torch.Generator().manual_seed(2))
    weight = model.model.lm_head.weight
    lengths = weight.norm(dim=1) / weight.norm(dim=1).mean()
    assert torch.allclose(relative_lengths(model), lengths.clamp_min(0.5))
    values = (token_logits(model, vectors) / lengths.clamp_min(0.5)).numpy()
    for row, ends in zip(values, read_tokens(model, vectors, [5] * 4), strict=True):
        order = sorted(range(len(row)), key=lambda token: row[token])
        words = model.tokenizer.convert_ids_to_tokens(order)
        assert [token.text for token in ends.away] == words[:5]
        assert [token.text for token in ends.toward] == words[:-6:-1]
        assert [token.value for token in ends.toward] == pytest.approx(sorted(row)[:-6:-1])


def test_equal_logits_go_to_the_first_tokens_and_padding_of_the_head_is_no_token(
    tmp_path: Path,
) -> None:
    model = load_model(write_tiny_model(tmp_path / "model", vocab_size=64))
    with torch.no_grad():
        model.model.lm_head.weight[:] = 1.0
    (ends,) = read_tokens(model, torch.ones(1, D), [3])
    assert [token.text for token in ends.toward] == ["<pad>", "<s>", "</s>"]
    (all_of_them,) = read_tokens(model, torch.ones(1, D), [64])
    assert len(all_of_them.toward) == len(model.tokenizer) < 64


# ---- tokens for people -----------------------------------------------------------------------


def test_tokens_of_byte_level_tokenizers_are_readable(demo_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_path)
    (newline,) = tokenizer.encode("\n", add_special_tokens=False)
    (the,) = tokenizer.encode(" the", add_special_tokens=False)
    assert readable(tokenizer, newline) == "\\n"
    assert readable(tokenizer, the) == "·the"
    texts = [readable(tokenizer, token) for token in range(len(tokenizer))]
    assert all(text and text.isprintable() and " " not in text for text in texts)
    assert not any("\N{REPLACEMENT CHARACTER}" in text for text in texts)


def test_spaces_of_tokenizers_that_decode_without_them_are_shown() -> None:
    vocabulary = {"<unk>": 0, "▁cat": 1, "s": 2, "▁" + "x" * 100: 3, "\x1b[2J": 4}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert readable(fast, 1) == "·cat"
    assert readable(fast, 2) == "s"
    assert readable(fast, 3) == "·" + "x" * 31 + "…"
    assert readable(fast, 4) == "\\x1b[2J"


def test_the_labs_rude_words_are_marked_and_plain_ones_are_not() -> None:
    rude = sorted(markers("people", "rude").words)
    assert all(are_offensive([f"·{word}" for word in rude]))
    plain = ["·the", "·house", "·Tuesday", "ing", "·kindly", "·neighbor", "<s>", "é", "·雨"]
    signs = [".", "·!!", "…", "123", "\\n", "·", ""]
    assert not any(are_offensive([*plain, *signs]))


def test_the_classifier_marks_words_that_the_demo_does_not_have(shared: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(shared / "models" / "reddit-4m")
    texts = [readable(tokenizer, token) for token in range(len(tokenizer))]
    flags = are_offensive(texts)
    own = markers("people", "rude").words
    marked = [text for text, flag in zip(texts, flags, strict=True) if flag]
    assert len([text for text in marked if text.strip("·").lower() not in own]) > 20
    assert len(marked) < 0.05 * len(texts)
