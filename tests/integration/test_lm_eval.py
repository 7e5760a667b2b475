"""Real items of real tasks, end to end through lm-evaluation-harness, offline."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelsurgery import LanguageModel, load_model, make_edit, score_rows, select_region
from modelsurgery.evaluation.capability import TaskResult, measure_capability
from modelsurgery.evaluation.capability.harness import _scores
from modelsurgery.evaluation.capability.items import Question
from talking import talking_tokenizer, write_talking_model
from tiny import tiny_sentences

pytest.importorskip("lm_eval", reason="needs the extra `eval`")


@pytest.fixture(scope="module")
def model(shared: Path) -> LanguageModel:
    return load_model(shared / "models" / "reddit-4m")


def measured(model: LanguageModel, task: str, shared: Path, strength: float) -> TaskResult:
    direction = np.random.default_rng(1).standard_normal(192).astype(np.float32)
    scores = score_rows(model.checkpoint, model.gates, direction[None])
    edit = make_edit(select_region(scores, 400), direction, strength=strength)
    found = measure_capability(
        model, [edit], [task], data=shared / "data", limit=4, max_new_tokens=12
    )[task]
    assert isinstance(found, TaskResult)
    return found


@pytest.mark.parametrize("task", ["gsm8k", "bbh", "mmlu"])
def test_real_items_are_asked_and_scored(model: LanguageModel, task: str, shared: Path) -> None:
    found = measured(model, task, shared, strength=0.0)
    assert len(found.items) == 4
    # An edit of no strength says the same of every item.
    assert [item.base for item in found.items] == [item.edited for item in found.items]
    assert found.change is not None
    assert found.change.verdict == "no detectable change"


def test_the_edited_weights_are_the_ones_that_answer(model: LanguageModel, shared: Path) -> None:
    direction = np.random.default_rng(1).standard_normal(192).astype(np.float32)
    scores = score_rows(model.checkpoint, model.gates, direction[None])
    edit = make_edit(select_region(scores, 400), direction, strength=30.0)
    found = measure_capability(model, [edit], ["mmlu"], data=shared / "data", limit=24)["mmlu"]
    assert isinstance(found, TaskResult)
    assert [item.base for item in found.items] != [item.edited for item in found.items]


def test_lambada_and_wikitext_on_real_files(model: LanguageModel, shared: Path) -> None:
    found = measure_capability(model, [], ["lambada", "wikitext"], data=shared / "data", limit=8)
    told = {name: one.to_json() for name, one in found.items()}
    assert told["lambada"]["items"] == 8
    assert told["wikitext"]["windows"] == 8
    assert 20 < told["wikitext"]["base"] < 5000
    assert told["wikitext"]["edited"] is None


def test_prompts_and_answers_get_the_opening_and_no_end(tmp_path: Path) -> None:
    """Too long a prompt loses its beginning behind the opening."""
    words, scores = tiny_sentences(40), {}
    questions = [
        Question(str(number), None, " ".join(some), ("A",), is_choice=True)
        for number, some in enumerate((words[:2], words[2:4], words[4:]))
    ]
    asked = [replace(one, is_choice=False, until=("\n",)) for one in questions]
    for closing in ((), ("</s>",)):
        tokenizer = talking_tokenizer(None, opening=["<s>"], closing=closing, words="ABCD")
        directory = tmp_path / f"closing-{len(closing)}"
        loaded = load_model(write_talking_model(directory, tokenizer))
        firsts: list[int] = []

        def watch(_: Any, __: Any, inputs: Any, seen: list[int] = firsts) -> None:
            ids = inputs["input_ids"] if "input_ids" in inputs else __[0]
            if ids.shape[1] > 1:
                seen.extend(next(one for one in row if one != 0) for row in ids.tolist())

        handle = loaded.model.register_forward_pre_hook(watch, with_kwargs=True)
        scores[closing] = _scores(loaded, "mmlu", questions, 4), _scores(loaded, "bbh", asked, 4)
        handle.remove()
        assert set(firsts) == {1}
    assert scores[()] == scores["</s>",]
