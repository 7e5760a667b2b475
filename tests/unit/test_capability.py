import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from modelsurgery import Edit, LanguageModel, load_model, make_edit, score_rows, select_region
from modelsurgery.data.choosing import evenly
from modelsurgery.errors import EvaluationError, TextsError
from modelsurgery.evaluation.capability import check_tasks, measure_capability
from modelsurgery.evaluation.capability.local_data import local_copy
from modelsurgery.evaluation.capability.results import Item, compare_items
from modelsurgery.evaluation.capability.tasks import find_tasks
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


def test_a_choice_takes_kinds_in_turn_and_is_stable() -> None:
    keys = [f"row {n}" for n in range(33)]
    kinds = ["geese"] * 30 + ["ponds"] * 3
    chosen = evenly(keys, 10, kinds=kinds)
    assert sorted(kinds[n] for n in chosen) == ["geese"] * 7 + ["ponds"] * 3
    assert chosen == evenly(keys, kinds=kinds)[:10]
    assert sorted(evenly(keys, kinds=kinds)) == list(range(33))
    assert len(evenly(keys, kinds=kinds, per_kind=2)) == 4
    assert evenly(keys, 10, kinds=kinds, seed=1) != chosen
    others = evenly([*keys, "a new one"], 11)
    assert len(set(evenly(keys, 10)) & set(others)) >= 10


def test_mmlu_is_read_in_both_published_forms(tmp_path: Path) -> None:
    folder = tmp_path / "mmlu" / "test"
    folder.mkdir(parents=True)
    (folder / "geese_test.csv").write_text('"What?\nReally?",a,b,c,d,C\nWhy?,a,b,c,d,A\n')
    (folder / "ponds_test.csv").write_text("question,0,1,2,3,answer\nWhat?,a,b,c,d,2\n")
    first, second = local_copy("cais/mmlu", "geese", tmp_path)["test"]
    assert first == {"question": "What?\nReally?", "choices": ["a", "b", "c", "d"], "answer": 2}
    assert second["answer"] == 0
    (pond,) = local_copy("cais/mmlu", "ponds", tmp_path)["test"]
    assert pond["answer"] == 2
    (folder / "odd_test.csv").write_text("What?,a,b\n")
    with pytest.raises(TextsError, match=r"odd_test\.csv, item 1: expected a question, four"):
        local_copy("cais/mmlu", "odd", tmp_path)
    assert local_copy("someone/else", None, tmp_path) is None


def test_tydiqa_is_read_in_its_published_form(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra `eval`")

    def write(part: str, identities: list[str]) -> None:
        asked = [
            {"id": one, "question": f"what is {one}?", "answers": [{"text": "a goose"}]}
            for one in identities
        ]
        content = {"data": [{"paragraphs": [{"context": "A goose swims.", "qas": asked}]}]}
        (tmp_path / "tydiqa" / f"tydiqa-goldp-v1.1-{part}.json").write_text(json.dumps(content))

    (tmp_path / "tydiqa").mkdir()
    with pytest.raises(TextsError, match="no tydiqa-goldp"):
        local_copy("google-research-datasets/tydiqa", None, tmp_path)
    languages = [
        "arabic", "bengali", "english", "finnish", "indonesian", "korean", "russian", "swahili",
        "telugu",
    ]  # fmt: skip
    write("train", [f"{language}-{number}" for language in languages for number in (1, 2)])
    write("dev", [f"{language}-7" for language in languages])
    found = find_tasks("tydiqa", tmp_path, None)
    assert (len(found.tasks), found.score, found.shots) == (9, "f1,none", 1)
    assert set(found.chosen(None, None)) == set(found.tasks)
    assert sum(map(len, found.chosen(4, None).values())) == 4
    task = found.tasks["tydiqa_goldp_fi"]
    prompt = task.fewshot_context(task.eval_docs[0], 1)
    assert prompt.endswith("Konteksti: A goose swims.\n\nKysymys: what is finnish-7?\n\nVastaus:")
    assert prompt.count("Kysymys:") == 2
    assert task.process_results(task.eval_docs[0], [" A Goose!"]) == {"exact_match": True, "f1": 1}


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
    for task in ("wikitext", "lambada", "bbh", "mmlu", "tydiqa", "gsm8k"):
        with pytest.raises(TextsError, match=f"no folder {task}"):
            measure_capability(model, [], [task], data=tmp_path)


def test_without_lm_eval_its_tasks_say_so_and_others_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EvaluationError, match=r"'gsm8k' needs .* 'modelsurgery\[eval\]'"):
        check_tasks(["gsm8k"])
    check_tasks(["wikitext", "lambada"])
