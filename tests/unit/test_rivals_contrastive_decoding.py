"""Contrastive decoding: the same logits and tokens as two models beside each other give."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from modelsurgery import load_model
from modelsurgery.evaluation.decoding import Decoding
from modelsurgery.evaluation.generation import TransformersGenerator
from modelsurgery.model.halves import Halves
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.rivals.adapters import Factors
from modelsurgery.rivals.contrastive_decoding import Contrasted
from modelsurgery.rivals.places import block_paths, linear_layers
from tiny import write_tiny_model

PROMPTS = ["my dog is so", "the cat", "a very big house and a tree in the rain"]
STRENGTH = 1.5


def amateur(model: LanguageModel) -> tuple[Factors, Any]:
    """Random factors, and a copy of the model in which they are merged."""
    random = torch.Generator().manual_seed(1)
    merged = copy.deepcopy(model.model)
    found = {}
    for block in block_paths(model):
        for path in linear_layers(model, block):
            weight = merged.get_submodule(path).weight.data
            transposed = type(model.model.get_submodule(path)).__name__ == "Conv1D"
            out, into = weight.T.shape if transposed else weight.shape
            left = 0.1 * torch.randn(out, 2, generator=random)
            right = 0.3 * torch.randn(2, into, generator=random)
            weight += (left @ right).T if transposed else left @ right
            found[path] = (left, right)
    return Factors(found), merged


def contrasted(model: LanguageModel, merged: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        base, other = (one(ids).logits for one in (model.model, merged))
    return base + STRENGTH * (base - other)


@pytest.mark.parametrize("family", ["llama", "gpt2", "cohere", "granite"])
def test_logits_are_those_of_two_models(family: str, tmp_path: Path) -> None:
    model = load_model(write_tiny_model(tmp_path, family))
    factors, merged = amateur(model)
    batch = model.tokenize(PROMPTS[:1])
    expected = contrasted(model, merged, batch["input_ids"])
    base = Halves(model.model).last_states(batch)
    with Contrasted(factors).applied(model, STRENGTH), torch.inference_mode():
        torch.testing.assert_close(model.model(**batch).logits, expected, rtol=1e-4, atol=1e-5)
        halves = Halves(model.model)
        found = halves.logits(halves.last_states(batch)[0])
        torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-5)
        # The head gives the base model's logits of the base model's states.
        plain = halves.logits(base[0])
    torch.testing.assert_close(plain, model.model(**batch).logits[0])


def test_generated_tokens_are_those_of_a_loop_without_cache(tmp_path: Path) -> None:
    model = load_model(write_tiny_model(tmp_path))
    factors, merged = amateur(model)
    expected = []
    for prompt in PROMPTS:
        (ids,) = model.token_ids([prompt])
        for _ in range(12):
            logits = contrasted(model, merged, torch.tensor([ids]))[0, -1]
            ids = [*ids, int(logits.argmax())]
        expected.append(ids[-12:])
    base = TransformersGenerator(model).generate(PROMPTS, Decoding(max_new_tokens=12))
    batch = model.tokenize(PROMPTS, side="left")
    width = batch["input_ids"].shape[1]
    with Contrasted(factors).applied(model, STRENGTH):
        for use_cache in (True, False):
            made = model.model.generate(
                **batch, max_new_tokens=12, do_sample=False, eos_token_id=None, use_cache=use_cache
            )
            assert made[:, width:].tolist() == expected
        changed = TransformersGenerator(model).generate(PROMPTS, Decoding(max_new_tokens=12))
    assert [one.text for one in changed] != [one.text for one in base]
    again = TransformersGenerator(model).generate(PROMPTS, Decoding(max_new_tokens=12))
    assert again == base
