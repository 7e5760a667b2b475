from pathlib import Path

import pytest
import torch

from families import LOADED, loaded
from modelsurgery import extract_hidden_states, load_model
from modelsurgery.errors import RecipeError
from modelsurgery.model.blocks import block_list
from tiny import tiny_sentences, write_tiny_model

TEXTS = tiny_sentences(17)


def one_by_one(model, text: str, layer: int) -> torch.Tensor:
    """The definition, without batches: the mean over a text's tokens of hidden_states[layer]."""
    ids = model.tokenizer(text, return_tensors="pt")["input_ids"][:, :100]
    with torch.inference_mode():
        states = model.model(input_ids=ids, output_hidden_states=True).hidden_states
    return states[layer][0].float().mean(0)


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3", "mixtral", "gpt2", "qwen2_vl"])
def test_features_are_the_mean_over_tokens_of_the_layer_as_the_paper_counts(
    family: str, layer: int, tmp_path: Path
) -> None:
    model = load_model(write_tiny_model(tmp_path / family, family))
    features = extract_hidden_states(model, TEXTS, [layer]).by_layer[layer]
    expected = torch.stack([one_by_one(model, text, layer) for text in TEXTS])
    torch.testing.assert_close(features, expected, atol=2e-6, rtol=1e-4)


def test_the_last_layer_is_after_the_final_norm(tiny_llama: Path) -> None:
    model = load_model(tiny_llama)
    states = {}
    hook = model.decoder.norm.register_forward_hook(lambda *call: states.update(out=call[2]))
    features = extract_hidden_states(model, TEXTS[:1], [3]).by_layer[3]
    hook.remove()
    torch.testing.assert_close(features[0], states["out"][0].mean(0))


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_batch_size_and_padding_do_not_matter(tiny_llama: Path, batch_tokens: int) -> None:
    model = load_model(tiny_llama)
    reference = extract_hidden_states(model, TEXTS, batch_tokens=64).by_layer
    features = extract_hidden_states(model, TEXTS, batch_tokens=batch_tokens).by_layer
    for layer, expected in reference.items():
        torch.testing.assert_close(features[layer], expected, atol=2e-6, rtol=1e-4)


def test_padding_is_masked_by_the_mask_and_not_by_an_id(tiny_llama: Path) -> None:
    """A word that happens to have the padding token's id still counts."""
    model = load_model(tiny_llama)
    model.tokenizer.pad_token = "the"
    texts = ["the the the cat", "a dog sits under the big tree and cries very very today"]
    features = extract_hidden_states(model, texts, [2]).by_layer[2]
    expected = torch.stack([one_by_one(model, text, 2) for text in texts])
    torch.testing.assert_close(features, expected, atol=2e-6, rtol=1e-4)


def test_all_layers_come_from_one_pass_in_f32(tiny_llama: Path) -> None:
    model = load_model(tiny_llama, dtype="bfloat16")
    calls = []
    hook = model.decoder.register_forward_hook(lambda *call: calls.append(1))
    head = model.model.lm_head.register_forward_hook(lambda *call: calls.append("head"))
    features = extract_hidden_states(model, TEXTS).by_layer
    hook.remove()
    head.remove()
    assert calls == [1]  # one batch, and never the language-model head
    assert list(features) == [1, 2, 3]
    assert all(values.dtype == torch.float32 for values in features.values())


def test_long_texts_are_cut_at_a_hundred_tokens(tiny_llama: Path) -> None:
    model = load_model(tiny_llama)
    start = " ".join(["cat dog"] * 50)
    features = extract_hidden_states(model, [start, start + " rain" * 20], [3]).by_layer[3]
    torch.testing.assert_close(features[0], features[1])


@pytest.mark.parametrize("layer", [0, 4, -1])
def test_a_layer_outside_the_model_is_refused(tiny_llama: Path, layer: int) -> None:
    with pytest.raises(RecipeError, match="expected 1 to 3"):
        extract_hidden_states(load_model(tiny_llama), TEXTS, [layer])


@pytest.mark.parametrize("family", LOADED)
def test_no_block_behind_the_highest_layer_runs_and_the_numbers_are_the_same(
    family: str, tmp_path: Path
) -> None:
    model = loaded(write_tiny_model(tmp_path / family, family))
    _, blocks = block_list(model)
    ran: list[int] = []
    hooks = [
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, block in enumerate(blocks)
    ]
    states = extract_hidden_states(model, TEXTS[:3], [1, 2])
    for hook in hooks:
        hook.remove()
    assert ran == [0, 1]
    whole = extract_hidden_states(model, TEXTS[:3], [1, 2, model.layer_count])
    for layer in (1, 2):
        torch.testing.assert_close(states.by_layer[layer], whole.by_layer[layer], atol=0, rtol=0)
