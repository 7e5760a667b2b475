"""The gradient check: slopes against gradients of the weights themselves, rises against losses."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from families import loaded, random_edit
from less_data import less_data
from looked_into import SENTENCES, random_probe, texts_of_a_behavior
from modelsurgery import demo_model_path, edited, load_model
from modelsurgery.data.behaviors import Behavior, describe_behavior, load_behavior
from modelsurgery.data.texts import LabeledText
from modelsurgery.edit.edit import Edit
from modelsurgery.interpret import look_inside
from modelsurgery.interpret.loss_rise import SHARES, loss_rises
from modelsurgery.interpret.reactions import FACTS, NEUTRAL, OPPOSITES, SHOWS, labeled_by_kind
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.rivals import gather_materials
from modelsurgery.rivals.edits import NaturalGradient, PaperRule
from modelsurgery.rivals.intervention import EditIntervention
from tiny import write_tiny_model

TEXTS = {
    kind: [LabeledText(text, label) for text in some]
    for kind, label, some in ((SHOWS, 1, SENTENCES[:7]), (OPPOSITES, 0, SENTENCES[7:12]))
}
# Where each family keeps the gate of a block: the weight, and whether it is [d, rows].
GATES = {
    "llama": ("model.layers.{}.mlp.gate_proj.weight", False),
    "gpt2": ("transformer.h.{}.mlp.c_fc.weight", True),
}


def losses(model: LanguageModel, texts: list[LabeledText]) -> tuple[torch.Tensor, int]:
    """Summed loss of texts, one at a time and without padding, and how many tokens."""
    total, tokens = torch.zeros(()), 0
    for text in texts:
        ids = torch.tensor([model.token_ids([text.text])[0]])
        told = model.model(input_ids=ids).logits[0].log_softmax(-1)
        total = total - told[:-1].gather(1, ids[0, 1:, None]).sum()
        tokens += len(ids[0]) - 1
    return total, tokens


@pytest.mark.parametrize("family", GATES)
def test_predictions_are_inner_products_with_the_gradient_of_the_weights(
    family: str, tmp_path: Path
) -> None:
    directory = write_tiny_model(tmp_path / "model", family)
    model, one = loaded(directory), random_edit(directory)
    edit = one + random_edit(directory, seed=1).scaled(0.5)  # of two directions
    found = loss_rises(model, edit, TEXTS)
    name, is_transposed = GATES[family]
    parameters = dict(model.model.named_parameters())
    for kind, rise in zip(TEXTS, found, strict=True):
        total, tokens = losses(model, TEXTS[kind])
        assert rise.texts == kind
        assert rise.tokens == tokens
        assert rise.base == pytest.approx(float(total) / tokens, rel=1e-5)
        expected = 0.0
        for update in edit.updates:
            weight = parameters[name.format(update.address.block)].requires_grad_()
            total, _ = losses(model, TEXTS[kind])
            (gradient,) = torch.autograd.grad(total, weight)
            weight.requires_grad_(False)
            rows = (gradient.T if is_transposed else gradient).numpy()[update.rows]
            expected += float(update.coefficients @ (rows.astype(np.float64) @ update.direction))
        assert [point.share for point in rise.points] == list(SHARES)
        for point in rise.points:
            assert point.predicted == pytest.approx(point.share * expected / tokens, rel=1e-3)
            with torch.no_grad(), edited(model.model, edit.scaled(point.share)):
                changed = losses(model, TEXTS[kind])[0]
            measured = (float(changed) - float(losses(model, TEXTS[kind])[0])) / tokens
            assert point.measured == pytest.approx(measured, rel=1e-3, abs=2e-6)


def test_a_weak_edit_does_what_the_gradient_says(tiny_llama: Path) -> None:
    model, edit = loaded(tiny_llama), random_edit(tiny_llama).scaled(0.02)
    for rise in loss_rises(model, edit, TEXTS):
        whole = rise.points[-1]
        assert abs(whole.measured) > 2e-5
        assert whole.measured == pytest.approx(whole.predicted, rel=0.05)


def test_texts_without_a_token_to_predict_are_left_out(tiny_llama: Path) -> None:
    model, edit = loaded(tiny_llama), random_edit(tiny_llama)
    word = SENTENCES[0].split()[0]
    assert loss_rises(model, edit, {SHOWS: [LabeledText(word, 1)], OPPOSITES: []}) == ()
    behavior = replace(texts_of_a_behavior(), test=(LabeledText(word, 1), LabeledText(word, 0)))
    seen = look_inside(model, edit, random_probe(2), behavior, direction=edit.updates[0].direction)
    assert seen.loss_rise is None
    assert "no token to predict" in seen.missing["loss_rise"]


@pytest.fixture(scope="module")
def behavior() -> Iterator[Behavior]:
    with less_data():
        yield load_behavior(describe_behavior("toxicity"), is_demo=True)


@pytest.fixture(scope="module")
def fitted(behavior: Behavior) -> tuple[LanguageModel, dict[str, Edit]]:
    """The demo model with an edit of each rule, away from rude talk."""
    model = load_model(demo_model_path())
    given = gather_materials(model, behavior, texts=60)
    edits = {}
    for method, strength in ((NaturalGradient(), 0.5), (PaperRule(), 4.0)):
        found = method.fit(given)
        assert isinstance(found, EditIntervention)
        edits[method.name] = found.edit.scaled(strength)
    return model, edits


@pytest.mark.parametrize("rule", ["natural-gradient", "paper"])
def test_edits_of_the_demo_model_go_up_the_loss_of_the_behavior(
    rule: str, behavior: Behavior, fitted: tuple[LanguageModel, dict[str, Edit]]
) -> None:
    model, edits = fitted
    edit = edits[rule]
    seen = look_inside(model, edit, None, behavior, direction=edit.updates[0].direction)
    assert seen.loss_rise is not None
    shows, opposites = seen.loss_rise
    assert (shows.texts, opposites.texts) == (SHOWS, OPPOSITES)
    rises = [point.measured for point in shows.points]
    assert 0 < rises[0] < rises[1] < rises[2]
    assert rises[-1] > 2 * opposites.points[-1].measured
    (back, _) = loss_rises(model, edit.scaled(-0.1), labeled_by_kind(behavior))
    assert back.points[-1].predicted == pytest.approx(-0.1 * shows.points[-1].predicted)
    if rule == "paper":  # which looks at no gradient: its rise is of second order
        assert abs(shows.points[-1].predicted) < 0.1 * rises[-1]
        return
    assert [point.measured < 0 for point in back.points] == [True] * len(SHARES)
    assert shows.points[0].predicted > 10 * abs(opposites.points[0].predicted)
    for point in shows.points:
        assert point.measured == pytest.approx(point.predicted, rel=0.5)


def test_the_papers_rule_activates_the_region_on_the_behavior_and_not_on_neutral_text(
    behavior: Behavior, fitted: tuple[LanguageModel, dict[str, Edit]]
) -> None:
    model, edits = fitted
    edit = edits["paper"]
    seen = look_inside(model, edit, None, behavior, direction=edit.updates[0].direction)
    assert seen.activations is not None
    change = {one.texts: one.edited - one.base for one in seen.activations}
    assert set(change) == {SHOWS, OPPOSITES, NEUTRAL, FACTS}
    assert change[SHOWS] > 0.05
    assert abs(change[NEUTRAL]) < 0.02
