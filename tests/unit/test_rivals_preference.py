"""Preference optimization: what is trained, and that nothing stays behind."""

import logging
from pathlib import Path

import pytest
import torch

from modelsurgery import load_model
from modelsurgery.model.activations.texts import TokenizedText, tokenize_plain
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.rivals.adapters import LoraSettings
from modelsurgery.rivals.preference import BETA, train_on_pairs
from tiny import tiny_sentences, write_tiny_model

SETTINGS = LoraSettings(rate=1e-2, epochs=2, batch=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_model(write_tiny_model(tmp_path_factory.mktemp("model")))


def texts(model: LanguageModel) -> tuple[list[TokenizedText], list[TokenizedText]]:
    sentences = tiny_sentences(16)
    return tokenize_plain(model, sentences[:8]), tokenize_plain(model, sentences[8:])


def log_probability(model: LanguageModel, one: TokenizedText) -> torch.Tensor:
    ids = torch.tensor([one.ids])
    told = model.model(ids).logits[0].log_softmax(-1)
    return torch.stack([told[at - 1, ids[0, at]] for at in range(1, len(one.ids))]).sum()


def test_the_first_step_goes_down_the_gradient_of_the_objective(model: LanguageModel) -> None:
    found = train_on_pairs(model, *texts(model), SETTINGS, seed=0)
    weights = {path: model.model.get_submodule(path).weight for path in found.by_path}
    for weight in weights.values():
        weight.requires_grad_(True)
    losses = []
    for chosen, rejected in zip(*texts(model), strict=True):  # the reference is the model itself
        margin = log_probability(model, chosen) - log_probability(model, rejected)
        losses.append(torch.nn.functional.softplus(-BETA * (margin - margin.detach())))
    torch.stack(losses).mean().backward()
    # Adam's step is the rate times g / (|g| + 1e-8) as long as g is the same; the first step of
    # two has the rate 0, and the factors' right sides start without a gradient.
    scaling = SETTINGS.alpha / SETTINGS.rank
    for path, (left, right) in found.by_path.items():
        gradient = scaling * weights[path].grad @ right.T
        expected = -SETTINGS.rate * gradient / (gradient.abs() + 1e-8)
        clear = gradient.abs() > 0.01 * gradient.abs().max()  # near 0 it is rounding
        assert clear.float().mean() > 0.9
        torch.testing.assert_close(left[clear], scaling * expected[clear], rtol=1e-3, atol=0)
        weights[path].grad = None
        weights[path].requires_grad_(False)


def test_the_model_is_as_it_was_and_nothing_is_written_or_told(
    model: LanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.WARNING)
    whole = model.model
    state = {name: one.clone() for name, one in whole.state_dict().items()}
    seen = [dict(vars(one)) for one in (whole, whole.config, whole.generation_config)]
    found = train_on_pairs(model, *texts(model), SETTINGS, seed=0)
    assert {path.rpartition(".")[2] for path in found.by_path} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    after = whole.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[name], one) for name, one in state.items())
    assert [dict(vars(one)) for one in (whole, whole.config, whole.generation_config)] == seen
    assert not whole.training
    assert not any(one.requires_grad for one in whole.parameters())
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
