import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from modelsurgery import Edit, LanguageModel, load_model, make_edit, score_rows, select_region
from modelsurgery.errors import RecipeError, TextsError
from modelsurgery.evaluation.capability import available_tasks, measure_capability
from modelsurgery.evaluation.capability.items import Question, load_items, score
from modelsurgery.evaluation.capability.results import Item, compare_items
from modelsurgery.evaluation.capability.windows import compare_perplexity
from modelsurgery.evaluation.language_modelling import greedy_answers
from tiny import tiny_sentences

TEXT = " ".join(tiny_sentences(40))


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> LanguageModel:
    return load_model(tiny_llama)


@pytest.fixture(scope="module")
def strong_edit(model: LanguageModel) -> Edit:
    direction = np.random.default_rng(1).standard_normal(32).astype(np.float32)
    scores = score_rows(model.checkpoint, model.gates, direction[None])
    return make_edit(select_region(scores, 60), direction, strength=20.0)


def test_perplexity_is_that_of_windows_one_by_one(model: LanguageModel) -> None:
    ids = model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    losses = []
    for start in range(0, len(ids), 16):
        window = torch.tensor([ids[start : start + 16]])
        if window.shape[1] > 1:
            with torch.inference_mode():
                table = model.model(input_ids=window).logits[0, :-1].double().log_softmax(-1)
            losses += (-table[torch.arange(window.shape[1] - 1), window[0, 1:]]).tolist()
    found = compare_perplexity(model, TEXT, [], window_tokens=16)
    assert found.tokens == len(losses)
    assert found.base == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    assert found.edited is found.divergence is None


def test_an_edit_shows_in_perplexity_and_divergence(
    model: LanguageModel, strong_edit: Edit
) -> None:
    found = compare_perplexity(model, TEXT, [strong_edit], window_tokens=16)
    same = compare_perplexity(model, TEXT, [strong_edit.scaled(0.0)], window_tokens=16)
    assert found.divergence is not None
    assert found.divergence > 1e-4
    assert found.divergence_interval is not None
    assert found.divergence_interval[0] <= found.divergence <= found.divergence_interval[1]
    assert found.rise is not None
    assert found.edited == pytest.approx(found.base * (1 + found.rise))
    assert (same.rise, same.divergence) == (0, 0)
    assert compare_perplexity(model, TEXT, [], window_tokens=16, limit=3).windows == 3


def test_greedy_answers_are_those_of_decoding_by_hand(model: LanguageModel) -> None:
    pairs = []
    for number, prompt in enumerate(tiny_sentences(12)):
        ids = model.tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            ranked = model.model(input_ids=ids).logits[0, -1].argsort(descending=True)
        words = [w for t in ranked.tolist() if (w := model.tokenizer.decode([t]).strip()).isalpha()]
        top = model.tokenizer.decode([int(ranked[0])]).strip()
        pairs.append((prompt, f" {top if number % 2 and top.isalpha() else words[5]}", top))
    hits = greedy_answers(model, [pair[:2] for pair in pairs])
    assert hits == [answer.strip() == top for _, answer, top in pairs]


def test_scores_of_answers() -> None:
    def asked(answer: str) -> Question:
        return Question("1", None, "", (answer,))

    assert score("gsm8k", asked("1,234"), " so 10 + 4 and\n#### 1234\n") == 1
    assert score("gsm8k", asked("72"), "that makes 24 and 48, so 72.") == 1
    assert score("gsm8k", asked("72"), "I do not know") == 0
    assert score("bbh", asked("(B)"), "Let me see. So the answer is (B).") == 1
    assert score("bbh", asked("True"), "not so. So the answer is False.") == 0
    assert score("tydiqa", asked("the big pond"), " Big pond!") == 1
    assert score("tydiqa", asked("a pond of geese"), "pond") == pytest.approx(0.5)


def test_items_are_taken_evenly_from_their_groups(tmp_path: Path) -> None:
    folder = tmp_path / "mmlu" / "test"
    folder.mkdir(parents=True)
    for subject, count in (("geese", 30), ("ponds", 3)):
        rows = [f'"What, {n}?\nReally?",a,b,c,d,{"ABCD"[n % 4]}\n' for n in range(count)]
        (folder / f"{subject}_test.csv").write_text("".join(rows))
    items = load_items("mmlu", tmp_path, 10)
    assert [item.group for item in items].count("ponds") == 3
    assert len(items) == 10
    assert items[0].prompt.endswith("A. a\nB. b\nC. c\nD. d\nAnswer:")
    assert items == load_items("mmlu", tmp_path, 10)
    (folder / "odd_test.csv").write_text("What?,a,b\n")
    with pytest.raises(TextsError, match=r"odd_test\.csv, item 1: expected a question, four"):
        load_items("mmlu", tmp_path, None)


def test_tydiqa_is_read_in_its_published_form(tmp_path: Path) -> None:
    def write(part: str, identities: list[str]) -> None:
        asked = [
            {"id": one, "question": f"what is {one}?", "answers": [{"text": "a goose"}]}
            for one in identities
        ]
        content = {"data": [{"paragraphs": [{"context": "A goose swims.", "qas": asked}]}]}
        (tmp_path / "tydiqa" / f"tydiqa-goldp-v1.1-{part}.json").write_text(json.dumps(content))

    (tmp_path / "tydiqa").mkdir()
    with pytest.raises(TextsError, match="no tydiqa-goldp"):
        load_items("tydiqa", tmp_path, None)
    write("train", ["finnish-1", "finnish-2"])
    write("dev", ["finnish-7", "swahili-8"])
    finnish, swahili = load_items("tydiqa", tmp_path, None)
    assert finnish.prompt.startswith(
        "Passage: A goose swims.\nQuestion: what is finnish-1?\nAnswer: a"
    )
    assert swahili.prompt.count("Question:") == 1  # no training item of that language
    assert (finnish.group, finnish.answers) == ("finnish", ("a goose",))


def test_items_are_compared_one_by_one() -> None:
    items = [Item(str(n), "ab"[n % 2], float(n < 8), float(n < 4)) for n in range(10)]
    found = compare_items("mmlu", items)
    assert (found.base.rate, found.edited.rate if found.edited else None) == (0.8, 0.4)
    assert found.change is not None
    assert (found.change.decreased, found.change.increased) == (4, 0)
    assert set(found.by) == {"a", "b"}
    told = found.to_json()
    assert told["published"] == {"model": "LLaMA2-7B", "base": 41.7, "edited": 41.7}


def test_what_is_not_there_is_said_so(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no capability task 'chess'; expected some of wikitext"):
        measure_capability(model, [], ["chess"])
    for task in ("wikitext", "lambada", "bbh", "mmlu", "tydiqa"):
        assert task in available_tasks()
        with pytest.raises(TextsError, match=f"no folder {task}"):
            measure_capability(model, [], [task], data=tmp_path)
