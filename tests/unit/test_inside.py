"""Looking inside: every number against one computed in another way."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from families import LOADED, loaded, random_edit
from looked_into import SENTENCES, looked, random_probe, texts_of_a_behavior
from modelsurgery import edited
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.probe import probe_cosine
from modelsurgery.errors import EditMismatchError, NothingChangedError, RecipeError
from modelsurgery.interpret import Inside, look_inside, probe_similarities, read_probe
from modelsurgery.model.hidden_states import extract_hidden_states
from modelsurgery.model.language_model import LanguageModel
from tiny import write_tiny_model


@pytest.fixture(scope="module")
def llama_looked(tiny_llama: Path) -> tuple[LanguageModel, Edit, Inside]:
    return looked(tiny_llama)


def test_the_model_is_left_without_our_hooks_and_with_its_weights(tiny_llama: Path) -> None:
    model = loaded(tiny_llama)
    extract_hidden_states(model, SENTENCES[:1])  # transformers hangs up hooks of its own

    def hooks() -> int:
        modules = model.model.modules()
        return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in modules)

    before, weights = hooks(), {k: v.clone() for k, v in model.model.state_dict().items()}
    edit = random_edit(tiny_llama)
    look_inside(
        model, edit, random_probe(1), texts_of_a_behavior(), direction=edit.updates[0].direction
    )
    assert hooks() == before
    assert all(weights[name].equal(one) for name, one in model.model.state_dict().items())


def test_rows_and_cosines_are_counted_once_each(
    llama_looked: tuple[LanguageModel, Edit, Inside],
) -> None:
    model, edit, seen = llama_looked
    chosen = {update.address.block + 1: len(update.rows) for update in edit.updates}
    assert [(one.layer, one.chosen, one.rows) for one in seen.rows_by_layer] == [
        (layer, chosen.get(layer, 0), 48) for layer in (1, 2, 3)
    ]
    direction = torch.from_numpy(edit.updates[0].direction)
    rows = torch.cat([layer.mlp.gate_proj.weight for layer in model.model.model.layers])
    everything = torch.cosine_similarity(rows, direction[None], dim=1).numpy()
    mine = np.concatenate([update.rows + 48 * update.address.block for update in edit.updates])
    for values, found in ((everything, seen.cosines.all), (everything[mine], seen.cosines.chosen)):
        assert list(found) == list(np.histogram(values, seen.cosines.edges)[0])
    assert sum(seen.cosines.all) == 144
    assert sum(seen.cosines.random) == sum(seen.cosines.chosen) == edit.row_count


def test_roc_losses_and_cosines_are_of_the_held_out_texts(
    llama_looked: tuple[LanguageModel, Edit, Inside],
) -> None:
    model, edit, seen = llama_looked
    behavior, probe = texts_of_a_behavior(), random_probe(2)
    texts = [one.text for one in behavior.test]
    labels = torch.tensor([one.label for one in behavior.test])

    def logits() -> torch.Tensor:
        states = extract_hidden_states(model, texts, [2]).by_layer[2]
        return states @ torch.from_numpy(probe.weight).T + torch.from_numpy(probe.bias)

    base = logits()
    with edited(model.model, edit):
        after = logits()
    assert seen.roc is not None
    margin = (base[:, 1] - base[:, 0]).numpy()
    area = roc_auc_score(labels, margin)
    assert seen.roc.auroc == pytest.approx(area)
    curve = seen.roc.true_positive_rate, seen.roc.false_positive_rate
    assert np.trapezoid(*curve) == pytest.approx(area)
    assert (seen.roc.texts, curve[0][0], curve[0][-1]) == (30, 0.0, 1.0)
    assert seen.probe_loss is not None
    for one, label in zip(seen.probe_loss, (1, 0), strict=True):
        for found, both in ((one.base, base), (one.edited, after)):
            loss = torch.nn.functional.cross_entropy(both[labels == label], labels[labels == label])
            assert found == pytest.approx(float(loss), rel=1e-4)
    neutral = extract_hidden_states(model, behavior.test_neutral, [2]).by_layer[2].mean(0)
    direction = torch.from_numpy(edit.updates[0].direction)
    assert seen.similarity is not None
    found = {one.texts: one.cosine for one in seen.similarity}
    expected = float(torch.cosine_similarity(neutral, direction, dim=0))
    assert found["neutral text"] == pytest.approx(expected, abs=1e-5)
    assert list(found)[3] == "questions of facts"


def test_the_same_look_gives_the_same_json_and_another_seed_other_random_rows(
    tiny_llama: Path,
) -> None:
    first, again, other = (looked(tiny_llama, seed=seed)[2].to_json() for seed in (0, 0, 1))
    assert json.dumps(first, allow_nan=False) == json.dumps(again)
    assert first["cosines"]["random"] != other["cosines"]["random"]
    other["cosines"]["random"] = first["cosines"]["random"]
    assert first == other
    assert first["missing"] == {}


def test_without_texts_or_probe_the_rest_is_there_and_reasons_are_given(tiny_llama: Path) -> None:
    model, edit = loaded(tiny_llama), random_edit(tiny_llama)
    direction = edit.updates[0].direction
    seen = look_inside(model, edit, direction=direction)
    assert seen.activations is seen.similarity is seen.roc is seen.probe_loss is None
    assert seen.loss_rise is None
    assert seen.tokens is not None
    texts = {"activations", "similarity", "roc", "probe_loss", "loss_rise", "mean_output"}
    assert set(seen.missing) == texts
    no_probe = look_inside(model, edit, None, texts_of_a_behavior(), direction=direction)
    assert no_probe.activations is not None
    assert set(no_probe.missing) == {"similarity", "roc", "probe_loss"}


def test_an_edit_that_breaks_the_model_leaves_out_what_compares(tiny_llama: Path) -> None:
    model, edit = loaded(tiny_llama), random_edit(tiny_llama)
    # Rows that f32 can hold, and outputs that it can't.
    updates = tuple(
        replace(one, coefficients=np.full(len(one.rows), 1e38, np.float32)) for one in edit.updates
    )
    broken = replace(edit, updates=updates)
    with np.errstate(over="ignore", invalid="ignore"):
        seen = look_inside(
            model, broken, random_probe(3), texts_of_a_behavior(),
            direction=edit.updates[0].direction,
        )  # fmt: skip
        content = json.dumps(seen.to_json(), allow_nan=False)
    assert "not finite" in content
    assert seen.activations is seen.probe_loss is seen.loss_rise is None
    assert seen.roc is not None


def test_capability_prompts_are_math_problems_where_there_are_no_facts(tiny_llama: Path) -> None:
    model, edit = loaded(tiny_llama), random_edit(tiny_llama)
    behavior = replace(texts_of_a_behavior(), test_facts=())
    seen = look_inside(model, edit, None, behavior, direction=edit.updates[0].direction)
    assert seen.activations is not None
    assert [one.texts for one in seen.activations][3:] == ["school math problems"]


def test_several_probes_have_cosines_with_each_other_and_with_texts(tiny_llama: Path) -> None:
    model, behavior = loaded(tiny_llama), texts_of_a_behavior()
    other = replace(random_probe(3), weight=random_probe(2).weight[::-1].copy())
    probes = {"one": random_probe(2), "other": other}
    one, two = (probe.weight[1].astype(np.float64) for probe in probes.values())
    expected = float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
    assert probe_cosine(*probes.values()) == pytest.approx(expected, rel=1e-5)
    assert probe_cosine(other, other) == pytest.approx(1)
    found = probe_similarities(model, probes, behavior)
    assert len(found) == 8  # two probes, four kinds of texts
    facts = [question for question, _ in behavior.test_facts]
    for name, vector in (("one", one), ("other", two)):
        layer = probes[name].layer
        assert layer is not None
        mean = extract_hidden_states(model, facts, [layer]).by_layer[layer].double().mean(0)
        expected = float(torch.cosine_similarity(mean, torch.from_numpy(vector), dim=0))
        (of_facts,) = (
            each.cosine
            for each in found
            if (each.probe, each.texts) == (name, "questions of facts")
        )
        assert of_facts == pytest.approx(expected, abs=1e-5)
    narrow = replace(other, weight=other.weight[:, :16])
    with pytest.raises(RecipeError, match="32 and 16 values"):
        probe_cosine(other, narrow)


def test_what_is_for_another_model_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other", seed=1)
    wide = write_tiny_model(tmp_path / "wide", hidden_size=48, num_attention_heads=6)
    edit = random_edit(other)
    with pytest.raises(EditMismatchError):
        look_inside(loaded(tiny_llama), edit, direction=edit.updates[0].direction)
    with pytest.raises(RecipeError, match="the probe was made for"):
        read_probe(loaded(wide), random_probe(1))
    own = random_edit(tiny_llama)
    with pytest.raises(NothingChangedError, match="changes no row"):
        look_inside(loaded(tiny_llama), own.scaled(0.0), direction=own.updates[0].direction)


@pytest.mark.slow
@pytest.mark.parametrize("family", LOADED)
def test_every_family_can_be_looked_into(family: str, tmp_path: Path) -> None:
    _, edit, seen = looked(write_tiny_model(tmp_path / "model", family))
    json.dumps(seen.to_json(), allow_nan=False)
    assert seen.tokens is not None
    assert all(one.writes is not None for one in seen.neurons)
    everywhere = any(update.address.expert < 0 for update in edit.updates)
    assert (seen.activations is not None) == everywhere
    dense = [one for one in seen.neurons if one.expert is None]
    assert all(one.mean_output is not None for one in dense)
