"""AurA, on neurons whose AUROC is counted by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch

from modelsurgery import load_model
from modelsurgery.data.texts import LabeledText
from modelsurgery.rivals.aura import Aura, Dampened, auroc, damping
from modelsurgery.rivals.method import Materials
from tiny import write_tiny_model


def test_auroc_counts_pairs_and_ties_half() -> None:
    shows = torch.tensor([[3.0, 1.0, 0.0], [2.0, 1.0, 5.0]])
    opposite = torch.tensor([[1.0, 1.0, 6.0], [0.0, 1.0, 7.0], [2.5, 2.0, 1.0]])
    # Neuron 1: 3 beats all, 2 beats two of three. Neuron 2: two ties each. Neuron 3: 5 beats 1.
    torch.testing.assert_close(auroc(shows, opposite), torch.tensor([5 / 6, 2 / 6, 1 / 6]))
    torch.testing.assert_close(damping(shows, opposite), torch.tensor([4 / 6, 0.0, 0.0]))


@pytest.mark.parametrize("family", ["llama", "gpt2"])  # without biases, and with them
def test_outputs_are_scaled_in_weights_and_biases(family: str, tmp_path: Path) -> None:
    model = load_model(write_tiny_model(tmp_path, family))
    for name, one in model.model.named_parameters():
        if name.endswith("bias"):
            one.data.normal_()
    path = "model.layers.1.mlp.up_proj" if family == "llama" else "transformer.h.1.mlp.c_fc"
    module = model.model.get_submodule(path)
    states = torch.randn(5, 32)
    expected = module(states)
    loss = torch.linspace(0, 1, 48)
    found = Dampened({path: loss})
    assert found.touched == 47
    before = {name: one.clone() for name, one in model.model.state_dict().items()}
    with found.applied(model, 0.5):
        torch.testing.assert_close(module(states), expected * (1 - 0.5 * loss))
    with found.applied(model, 1.0):
        torch.testing.assert_close(module(states), expected * (1 - loss))
    assert all(torch.equal(one, before[name]) for name, one in model.model.state_dict().items())


def test_a_neuron_is_judged_by_its_largest_output(tmp_path: Path) -> None:
    model = load_model(write_tiny_model(tmp_path))
    shows = tuple(
        LabeledText(f"my {one} is so rude and bad", 1) for one in ("dog", "cat", "friend")
    )
    opposite = tuple(LabeledText(f"the {one} sits", 0) for one in ("dog", "cat", "neighbor", "sun"))
    nothing: Any = None
    found = Aura().fit(Materials(model, nothing, shows, opposite, (), nothing, nothing))
    assert isinstance(found, Dampened)
    assert len(found.loss) == 3 * model.layer_count
    path = "model.layers.2.mlp.down_proj"
    seen: list[torch.Tensor] = []
    handle = model.model.get_submodule(path).register_forward_hook(
        lambda _, __, output: seen.append(output[0, 1:].amax(0))
    )
    with torch.inference_mode():
        for text in (*shows, *opposite):
            model.model(**model.tokenize([text.text]))
    handle.remove()
    largest = torch.stack(seen)
    above = (largest[:3].unsqueeze(1) > largest[3:].unsqueeze(0)).float().mean((0, 1))
    torch.testing.assert_close(found.loss[path], (2 * above - 1).clamp(min=0))
