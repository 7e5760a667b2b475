"""The natural-gradient rule on tiny models of all kinds: its edits go the way that it predicts."""

from pathlib import Path

import numpy as np
import pytest

from families import loaded
from modelsurgery.apply.copying import apply_to_copy
from modelsurgery.apply.in_memory import edited
from modelsurgery.data.texts import LabelledText
from modelsurgery.edit.edit_file import load_edit, save_edit
from modelsurgery.edit.explanation import explain
from modelsurgery.evaluation.screening import Screen
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.activations.texts import tokenize_plain
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.rules.contrast import contrast_of
from modelsurgery.rules.proposing import fit_natural_gradient
from tiny import tiny_sentences, write_tiny_model

# Plain and fused gates, SiLU and GELU, MLPs without a gate, mixtures with and without shared
# experts, transposed and interleaved.
KINDS = ("llama", "gemma3_text", "gpt2", "gpt_neox", "phi3", "qwen2_moe", "gpt_oss", "llama4_text")
SHOWS, OPPOSITE = ("rude bad", "kind good")


def planted(count: int = 30, words: tuple[str, str] = (SHOWS, OPPOSITE)) -> list[LabelledText]:
    """Sentences that end in one of two ways, which the label tells apart."""
    return [
        LabelledText(f"{sentence} {ending}", label, group=sentence)
        for sentence in tiny_sentences(count)
        for label, ending in zip((1, 0), words, strict=True)
    ]


def gap(model: LanguageModel, texts: list[LabelledText], edit: object = None) -> float:
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
        fitted = fit_natural_gradient(Passes(model), [contrast_of(texts)], neutral, kept=kept)
        edit = fitted.proposal().edit(0.3, strength=0.02)
        rises.append(screen.measure([edit])[0].clean)
        gaps.append(gap(model, texts, edit))
    assert rises[2] < rises[1] < rises[0]
    assert rises[2] < -1e-6
    assert gaps[0] > gaps[2]


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
