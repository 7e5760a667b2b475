"""Wanda, on rows whose scores are counted by hand."""

from pathlib import Path
from typing import Any

import torch

from modelsurgery import load_model
from modelsurgery.model.activations.texts import tokenize_plain
from modelsurgery.rivals.intervention import matrix_of
from modelsurgery.rivals.method import Materials
from modelsurgery.rivals.pruning import Wanda, input_norms, pruned
from tiny import write_tiny_model

TEXTS = ("my dog is so happy today", "the cat sits", "a very big house and a tree")


def test_the_weights_that_matter_least_in_each_row_are_set_to_0() -> None:
    matrix = torch.tensor([[4.0, -1.0, 2.0, 3.0], [-1.0, 5.0, 0.5, 0.1]])
    norms = torch.tensor([1.0, 9.0, 1.0, 2.0])  # scores 4 9 2 6, and 1 45 0.5 0.2
    assert pruned(matrix, norms, 0.5).tolist() == [[0.0, -1.0, 0.0, 3.0], [-1.0, 5.0, 0.0, 0.0]]
    assert pruned(matrix, norms, 0.49).tolist() == [[4.0, -1.0, 0.0, 3.0], [-1.0, 5.0, 0.5, 0.0]]
    assert torch.equal(pruned(matrix, norms, 0.0), matrix)


def test_norms_of_inputs_are_over_all_tokens_and_no_padding(tmp_path: Path) -> None:
    model = load_model(write_tiny_model(tmp_path))
    path = "model.layers.1.mlp.down_proj"
    seen: list[torch.Tensor] = []
    module = model.model.get_submodule(path)
    handle = module.register_forward_hook(lambda _, given, __: seen.append(given[0][0]))
    with torch.inference_mode():
        for text in TEXTS:  # one at a time, so that there is no padding
            model.model(**model.tokenize([text]))
    handle.remove()
    (found,) = input_norms(model, tokenize_plain(model, TEXTS), [path]).values()
    torch.testing.assert_close(found, torch.cat(seen).norm(dim=0))


def test_attention_alone_is_pruned(tmp_path: Path) -> None:
    model = load_model(write_tiny_model(tmp_path))
    nothing: Any = None
    found = Wanda().fit(Materials(model, nothing, (), (), TEXTS, nothing, nothing))
    before = {name: one.clone() for name, one in model.model.state_dict().items()}
    with found.applied(model, 0.25):
        for name, one in model.model.state_dict().items():
            if "self_attn" in name:
                assert ((one == 0).sum(1) == one.shape[1] // 4).all()
            else:
                assert torch.equal(one, before[name])
        assert float((matrix_of(model.model.model.layers[0].self_attn.q_proj) == 0).sum()) > 0
