"""The natural-gradient rule on tiny models of all kinds: its edits go the way that it predicts."""

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from families import loaded
from modelsurgery.apply.copying import apply_to_copy
from modelsurgery.apply.in_memory import edited
from modelsurgery.data.texts import LabeledText
from modelsurgery.edit.edit_file import load_edit, save_edit
from modelsurgery.edit.explanation import explain
from modelsurgery.errors import NoSignalError, RecipeError
from modelsurgery.evaluation.screening import Screen
from modelsurgery.files.progress import Advance, silent
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.activations.texts import tokenize_plain
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.rules.contrast import contrast_of
from modelsurgery.rules.proposing import fit_natural_gradient
from modelsurgery.search.edit_fitting import fit_edit
from tiny import tiny_sentences, write_tiny_model

# Plain and fused gates, SiLU and GELU, MLPs without a gate, mixtures with and without shared
# experts, transposed and interleaved.
KINDS = ("llama", "gemma3_text", "gpt2", "gpt_neox", "phi3", "qwen2_moe", "gpt_oss", "llama4_text")
SHOWS, OPPOSITE = ("rude bad", "kind good")


def planted(count: int = 30, words: tuple[str, str] = (SHOWS, OPPOSITE)) -> list[LabeledText]:
    """Sentences that end in one of two ways, which the label tells apart."""
    return [
        LabeledText(f"{sentence} {ending}", label, group=sentence)
        for sentence in tiny_sentences(count)
        for label, ending in zip((1, 0), words, strict=True)
    ]


def gap(model: LanguageModel, texts: list[LabeledText], edit: object = None) -> float:
    """Mean loss on texts with label 1 less that on texts with label 0."""
    kinds = [[text.text for text in texts if text.label == label] for label in (1, 0)]
    screen = Screen(model, *kinds, ["the cat sits in the house"])
    return screen.measure([edit])[0].selectivity  # type: ignore[list-item]


@pytest.mark.parametrize("family", KINDS)
def test_edits_pull_the_labels_apart_either_way(family: str, tmp_path: Path) -> None:
    model = loaded(write_tiny_model(tmp_path / "m", family))
    texts = planted()
    neutral = tokenize_plain(model, tiny_sentences(40, seed=3))
    fitted = fit_natural_gradient(Passes(model), [contrast_of(texts)], neutral)
    assert fitted.evidence().is_clear
    edit = fitted.proposal().edit(0.3, strength=0.02)
    assert edit.row_count == round(0.3 * sum(gate.rows for gate in model.gates))
    away, toward = gap(model, texts, edit), gap(model, texts, -edit)
    explained = explain(edit)
    assert explained is not None
    assert away == pytest.approx(explained.gain, rel=0.25)  # to first order, and the edit is small
    assert toward == pytest.approx(-explained.gain, rel=0.25)
    assert away > 1e-5


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_moe"])
def test_what_neutral_text_counts_for_keeps_its_loss_down(family: str, tmp_path: Path) -> None:
    model = loaded(write_tiny_model(tmp_path / "m", family))
    texts, plain = planted(), tiny_sentences(40, seed=3)
    neutral = tokenize_plain(model, plain)
    screen = Screen(model, (), (), plain)
    rises, gaps = [], []
    for kept in (0.0, 1e4, 1e9):
        fitted = fit_natural_gradient(Passes(model), [contrast_of(texts)], neutral)
        edit = fitted.proposal(kept=kept).edit(0.3, strength=0.02)
        rises.append(screen.measure([edit])[0].clean)
        gaps.append(gap(model, texts, edit))
    assert rises[2] < rises[1] < rises[0]
    assert rises[2] < -1e-6
    assert gaps[0] > gaps[2]


def test_what_neutral_text_loses_is_read_once_and_only_where_it_counts(tmp_path: Path) -> None:
    model = loaded(write_tiny_model(tmp_path / "m", "llama"))
    neutral = tokenize_plain(model, tiny_sentences(40, seed=3))
    stages = []

    def progress(stage: str, total: int) -> AbstractContextManager[Advance]:
        stages.append((stage, total))
        return silent(stage, total)

    texts = planted()
    fitted = fit_natural_gradient(Passes(model, progress=progress), [contrast_of(texts)], neutral)
    fitted.proposal()
    assert [total for stage, total in stages if stage == "gains"] == [len(texts)]
    fitted.proposal(kept=1.0)
    fitted.proposal(kept=2.0)
    assert [total for stage, total in stages if stage == "gains"] == [len(texts), len(neutral)]


@pytest.mark.parametrize("family", ["phi3", "gpt_oss"])
def test_an_edit_of_the_rule_is_the_same_in_memory_and_on_disk(family: str, tmp_path: Path) -> None:
    model = loaded(write_tiny_model(tmp_path / "m", family))
    neutral = tokenize_plain(model, tiny_sentences(40, seed=3))
    fitted = fit_natural_gradient(Passes(model), [contrast_of(planted())], neutral)
    edit = fitted.proposal().edit(0.1, strength=0.5).bound_to(model.checkpoint, model.gates)
    apply_to_copy(tmp_path / "m", [edit], tmp_path / "copy")
    copy = loaded(tmp_path / "copy")
    with edited(model.model, edit) as changes:
        assert changes
        for (name, one), (_, other) in zip(
            model.model.named_parameters(), copy.model.named_parameters(), strict=True
        ):
            assert one.equal(other), name


@pytest.mark.parametrize("family", ["llama", "qwen2_moe", "llama4_text"])
def test_an_edit_from_samples_of_inputs_is_that_from_their_second_moment(
    family: str, tmp_path: Path
) -> None:
    model = loaded(write_tiny_model(tmp_path / "m", family))
    neutral = tokenize_plain(model, tiny_sentences(40, seed=3))
    dense, sampled = (
        fit_natural_gradient(Passes(model, samples=samples), [contrast_of(planted())], neutral)
        for samples in (None, 10_000)
    )
    one, other = (fitted.proposal().edit(0.1, strength=0.5) for fitted in (dense, sampled))
    for update, same in zip(one.updates, other.updates, strict=True):
        np.testing.assert_array_equal(update.rows, same.rows)
        np.testing.assert_allclose(update.direction, same.direction, atol=2e-5)
        np.testing.assert_allclose(update.coefficients, same.coefficients, rtol=1e-3)
    assert sampled.evidence().gain == pytest.approx(dense.evidence().gain, rel=1e-3)


@pytest.mark.parametrize("weight", [1.0, -1.0])
def test_one_edit_moves_several_behaviors_by_their_weights(weight: float, tmp_path: Path) -> None:
    model = loaded(write_tiny_model(tmp_path / "m"))
    first, second = planted(), planted(words=("sad cries", "happy sings"))
    neutral = tokenize_plain(model, tiny_sentences(40, seed=3))
    contrasts = [contrast_of(first), contrast_of(second, weight=weight)]
    fitted = fit_natural_gradient(Passes(model), contrasts, neutral)
    edit = fitted.proposal().edit(0.3, strength=0.02)
    assert len(edit.updates) == 2 * len({update.address for update in edit.updates})
    assert gap(model, first, edit) > 1e-5
    assert weight * gap(model, second, edit) > 1e-5
    save_edit(edit, tmp_path / "e.safetensors")
    assert load_edit(tmp_path / "e.safetensors").content_sha256 == edit.content_sha256


def test_each_behavior_has_the_evidence_that_it_has_alone(tmp_path: Path) -> None:
    model = loaded(write_tiny_model(tmp_path / "m"))
    neutral = tokenize_plain(model, tiny_sentences(40, seed=3))
    texts = planted(), planted(words=("sad cries", "happy sings"))
    together = fit_natural_gradient(
        Passes(model),
        [contrast_of(texts[0], weight=0.1), contrast_of(texts[1], weight=-3)],
        neutral,
    )
    for some, evidence in zip(texts, together.evidence_by_behavior(), strict=True):
        alone = fit_natural_gradient(Passes(model), [contrast_of(some)], neutral).evidence()
        assert evidence.gain == pytest.approx(alone.gain, rel=1e-5)
        assert evidence.error == pytest.approx(alone.error, rel=1e-4)


def random_labels(seed: int = 0) -> list[LabeledText]:
    """Texts whose labels say nothing of them."""
    drawn = np.random.default_rng(seed).integers(0, 2, 60)
    return [
        LabeledText(text, int(label))
        for text, label in zip(tiny_sentences(60, seed=seed), drawn, strict=True)
    ]


def test_texts_that_do_not_agree_are_named_and_make_no_edit(tmp_path: Path) -> None:
    model = loaded(write_tiny_model(tmp_path / "m"))
    neutral = tiny_sentences(40, seed=3)
    texts = {"rudeness": planted(), "nothing": random_labels()}
    with pytest.raises(NoSignalError, match=r"^the texts of nothing do not agree"):
        fit_edit(model, texts, neutral)
    with pytest.raises(NoSignalError, match=r"^the texts do not agree"):
        fit_edit(model, texts["nothing"], neutral)


@pytest.mark.parametrize(
    ("direction", "signs"),
    [("away", (1, 1)), ("toward", (-1, -1)), ({"first": "toward", "second": "away"}, (-1, 1))],
)
def test_one_edit_inside_the_budget_moves_each_behavior_its_way(
    direction: Any, signs: tuple[int, int], tmp_path: Path
) -> None:
    model = loaded(write_tiny_model(tmp_path / "m"))
    neutral = tiny_sentences(40, seed=3)
    texts = {"first": planted(), "second": planted(words=("sad cries", "happy sings"))}
    edit = fit_edit(
        model, texts, neutral, direction=direction, weights={"first": 1, "second": 2}, rows=0.3
    )
    for sign, some in zip(signs, texts.values(), strict=True):
        assert sign * gap(model, some, edit) > 0
    assert (edit.strength < 0) == (direction == "toward")
    screen = Screen(model, (), (), neutral)
    (effect,) = screen.measure([edit])
    assert 0.1 * 0.02 < effect.divergence < 1.2 * 0.02  # other texts than the strength was found on
    measured = edit.measured
    assert measured is not None
    assert set(measured.by_behavior) == {"first", "second"}
    assert all(one > 0 for one in measured.by_behavior.values())
    moved = measured.by_behavior["first"] + 2 * measured.by_behavior["second"]
    assert abs(measured.gain) == pytest.approx(moved)
    explained = explain(edit)
    assert explained is not None
    assert explained.gain * measured.gain > 0
    settings = edit.provenance.settings["behaviors"]
    assert settings["second"]["weight"] == 2
    assert set(edit.provenance.inputs) == {"neutral", "texts.first", "texts.second"}
    save_edit(edit, tmp_path / "e.safetensors")
    assert load_edit(tmp_path / "e.safetensors").measured == measured


@pytest.mark.parametrize("rule", ["least-squares", "paper"])
def test_other_rules_take_one_behavior(rule: Any, tmp_path: Path) -> None:
    model = loaded(write_tiny_model(tmp_path / "m"))
    with pytest.raises(RecipeError, match="supports one behavior only; use natural-gradient"):
        fit_edit(model, {"one": planted(), "two": planted()}, rule=rule)
    # A name does no harm.
    edit = fit_edit(model, {"one": planted()}, tiny_sentences(40, seed=3), rule=rule, strength=0.1)
    assert edit.provenance.settings["behaviors"] == {"one": {"direction": "away", "weight": 1.0}}


def test_toward_is_away_with_the_labels_the_other_way_round(tmp_path: Path) -> None:
    """What neutral text loses counts alike for both."""
    model = loaded(write_tiny_model(tmp_path / "m"))
    texts, neutral = planted(), tiny_sentences(200, seed=3)
    turned = [replace(text, label=1 - text.label) for text in texts]
    toward = fit_edit(model, texts, neutral, direction="toward", rows=0.2, strength=0.3)
    away = fit_edit(model, turned, neutral, rows=0.2, strength=0.3)
    assert len(toward.updates) == len(away.updates)
    for one, other in zip(toward.updates, away.updates, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)
        added, same = (np.outer(some.coefficients, some.direction) for some in (one, other))
        np.testing.assert_allclose(added, same, atol=1e-3 * np.abs(added).max())


def test_a_behavior_that_moves_the_wrong_way_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same texts in both directions: one of them loses."""
    model = loaded(write_tiny_model(tmp_path / "m"))
    texts = {"stronger": planted(), "weaker": planted()}
    edit = fit_edit(
        model,
        texts,
        tiny_sentences(40, seed=3),
        direction={"stronger": "away", "weaker": "toward"},
        weights={"stronger": 1.0, "weaker": 0.1},
        rows=0.3,
    )
    assert edit.measured is not None
    assert edit.measured.by_behavior["weaker"] < 0 < edit.measured.by_behavior["stronger"]
    (told,) = [one for one in caplog.messages if "the wrong direction" in one]
    assert "the edit moves weaker in the wrong direction" in told
