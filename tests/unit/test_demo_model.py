"""The demo model: small, loadable by plain transformers, and it knows its facts."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from modelsurgery.data.demo import demo_model_path, facts


def test_the_weights_are_small_and_bfloat16() -> None:
    path = demo_model_path()
    assert (path / "model.safetensors").stat().st_size <= 8_000_000
    model = AutoModelForCausalLM.from_pretrained(path)
    assert model.dtype == torch.bfloat16
    assert 2_000_000 <= model.num_parameters() <= 4_000_000


def test_the_tokenizer_begins_every_text_and_knows_its_ends() -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo_model_path())
    ids = tokenizer("My brother is tall.")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert None not in (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "My brother is tall."


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_model_knows_its_facts(split: str) -> None:
    path = demo_model_path()
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    asked = facts(split, 150, seed=7)  # type: ignore[arg-type]
    batch = tokenizer([prompt for prompt, _ in asked], return_tensors="pt", padding=True)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    answers = tokenizer.batch_decode(
        ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
    )
    right = sum(
        given.split(".")[0].strip() == answer
        for given, (_, answer) in zip(answers, asked, strict=True)
    )
    assert right / len(asked) >= 0.95
