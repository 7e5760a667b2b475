"""Every method: strength 0 is the base model, the base comes back, and the sign is right."""

from dataclasses import replace

import pytest
import torch

from less_data import less_data
from modelsurgery import demo_model_path, load_model
from modelsurgery.data.behaviors import describe_behavior, load_behavior
from modelsurgery.evaluation.screening import Screen
from modelsurgery.rivals import METHODS, Intervention, Materials, gather_materials
from modelsurgery.rivals.matching import match_divergence
from modelsurgery.rules.contrast import pulled_apart
from modelsurgery.search.fitting import first_tokens, some_of_each

pytestmark = pytest.mark.slow
CONTROLS = {"random", "system-prompt"}  # the demo model follows no instructions


@pytest.fixture(scope="module")
def given() -> Materials:
    model = load_model(demo_model_path())
    with less_data():
        behavior = load_behavior(describe_behavior("toxicity"), is_demo=True)
    return measured_on(gather_materials(model, behavior, texts=30), texts=64, tokens=1000)


@pytest.fixture(scope="module")
def fitted(given: Materials) -> dict[str, Intervention]:
    return {}


def intervention(name: str, given: Materials, fitted: dict[str, Intervention]) -> Intervention:
    if name not in fitted:
        # Some methods measure forty times.
        fitted[name] = METHODS[name].fit(measured_on(given, texts=16, tokens=500))
    return fitted[name]


def measured_on(given: Materials, texts: int, tokens: int) -> Materials:
    """The same with so many texts of each label and tokens of neutral text to measure on."""
    labeled, neutral = given.behavior.validation, given.behavior.validation_neutral
    shows, opposite = pulled_apart(some_of_each(labeled, texts), given.sign)
    screen = Screen(given.model, shows, opposite, first_tokens(given.model, neutral, tokens))
    return replace(given, validation=screen)


def logits(given: Materials) -> torch.Tensor:
    batch = given.model.tokenize(["Oliver is such a", "My neighbor"], side="left")
    with torch.inference_mode():
        return given.model.model(**batch).logits


@pytest.mark.parametrize("name", METHODS)
def test_the_base_model_at_strength_0_and_again_afterwards(
    name: str, given: Materials, fitted: dict[str, Intervention]
) -> None:
    before = logits(given)
    state = {key: value.clone() for key, value in given.model.model.state_dict().items()}
    found = intervention(name, given, fitted)
    with found.applied(given.model, 0.0):
        torch.testing.assert_close(logits(given), before, rtol=0, atol=2e-4)
    with found.applied(given.model, found.first):
        assert not torch.equal(logits(given), before)
    assert torch.equal(logits(given), before)
    after = given.model.model.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[key], value) for key, value in state.items())
    assert found.touched > 0


@pytest.mark.parametrize("name", [name for name in METHODS if name not in CONTROLS])
def test_it_moves_the_behavior_away(
    name: str, given: Materials, fitted: dict[str, Intervention]
) -> None:
    found = intervention(name, given, fitted)

    def divergence(strength: float) -> float:
        with found.applied(given.model, strength):
            return given.validation.measure_changed().divergence

    matched = match_divergence(divergence, 0.02, first=found.first, most=found.most)
    with found.applied(given.model, matched.strength):
        effect = given.validation.measure_changed()
    assert effect.divergence == pytest.approx(matched.divergence, rel=1e-3)
    assert effect.selectivity > 0


@pytest.mark.parametrize("name", METHODS)
def test_it_says_where_it_comes_from(name: str) -> None:
    method = METHODS[name]
    assert method.name == name
    assert method.title
    assert method.source
