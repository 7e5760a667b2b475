"""`modelsurgery.evaluate`: in memory, by name or of texts, and the same numbers as its parts."""

import json
from pathlib import Path

import numpy as np
import pytest

import modelsurgery as ms
from modelsurgery.data.texts import LabeledText, Split
from modelsurgery.errors import RecipeError, TextsError
from modelsurgery.evaluation.judges import Verdict
from modelsurgery.evaluation.language_modelling import compare_language_modelling
from modelsurgery.results import results_of
from tiny import tiny_sentences

TEXTS = [LabeledText(text, number % 2) for number, text in enumerate(tiny_sentences(60))]


class CountsA:
    """A judge that is exact: does the answer hold the letter?"""

    name, version, note = "counts-a", "1", "exact"

    def __call__(self, prompts: object, texts: list[str]) -> list[Verdict]:
        return [("behavior" if "a" in text else "opposite") for text in texts]


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> ms.LanguageModel:
    return ms.load_model(tiny_llama)


@pytest.fixture(scope="module")
def edit(model: ms.LanguageModel) -> ms.Edit:
    direction = np.random.default_rng(1).standard_normal(32).astype(np.float32)
    scores = ms.score_rows(model.checkpoint, model.gates, direction[None])
    return ms.make_edit(ms.select_region(scores, 60), direction, strength=20.0)


def test_texts_are_measured_on_their_held_out_part_and_nothing_is_written(
    model: ms.LanguageModel,
    edit: ms.Edit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    split = ms.split_texts(TEXTS, test_size=0.3, seed=4)
    neutral = [text.text for text in split.test if text.label == 0]
    before = {name: one.clone() for name, one in model.model.state_dict().items()}
    found = ms.evaluate(model, edit, split, judge=CountsA(), samples=2, seed=7)

    assert list(tmp_path.iterdir()) == []
    assert all(one.equal(before[name]) for name, one in model.model.state_dict().items())
    expected = compare_language_modelling(model, neutral, [edit])
    assert found.damage.neutral == expected
    asked = {" ".join(text.text.split()[: len(text.text.split()) // 2]) for text in split.test
             if text.label == 1 and len(text.text.split()) >= 4}  # fmt: skip
    assert {prompt.text for prompt in found.first.prompts.prompts} == asked
    assert [one.seed for one in found.first.decodings] == [7, 8]
    answers = [row["edited"]["text"] for row in found.first.samples()]
    edited = found.first.whole.edited
    assert edited is not None
    assert edited.rate == pytest.approx(sum("a" in text for text in answers) / len(answers))

    content = json.loads(json.dumps(found.to_json()))
    assert results_of(content, "here") == found.results()
    text = str(found)
    assert text.startswith("behavior (labeled texts), model ")
    assert f"{expected.base_perplexity:.2f}" in text
    assert "change is" in text


def test_a_model_alone_and_several_edits_are_measured(
    model: ms.LanguageModel, edit: ms.Edit
) -> None:
    split = ms.split_texts(TEXTS, seed=4)
    alone = ms.evaluate(model, None, split, judge=CountsA())
    assert alone.first.edited is None
    assert "edited" not in str(alone).split("\n", maxsplit=1)[1].split("\n")[0]
    both = ms.evaluate(model, [edit, -edit], split, judge=CountsA())
    assert both.damage.neutral is not None
    assert both.damage.neutral.divergence == 0
    assert set(both.edits) == {"1", "2"}
    assert both.first.base.rounds == alone.first.base.rounds


def test_the_seed_is_the_edits_unless_it_is_given(model: ms.LanguageModel, edit: ms.Edit) -> None:
    assert edit.provenance.seed is None
    assert ms.evaluate(model, edit, TEXTS, judge=CountsA(), prompt_count=2).seed == 0
    found = ms.evaluate(model, edit, TEXTS, judge=CountsA(), prompt_count=2, seed=5)
    assert found.seed == 5
    test = {text.text for text in ms.split_texts(TEXTS, seed=5).test}
    assert all(
        any(text.startswith(prompt.text) for text in test) for prompt in found.first.prompts.prompts
    )


def test_what_cannot_be_measured_is_refused(model: ms.LanguageModel, edit: ms.Edit) -> None:
    with pytest.raises(RecipeError, match="a behavior has its own"):
        ms.evaluate(model, edit, "toxicity", prompts=["go on"])
    with pytest.raises(RecipeError, match="no behavior 'nosuch'"):
        ms.evaluate(model, edit, "nosuch")
    short = Split(tuple(TEXTS[:20]), (LabeledText("a", 1), LabeledText("b c", 0)))
    with pytest.raises(TextsError, match="too short to cut prompts from"):
        ms.evaluate(model, edit, short, judge=CountsA())
