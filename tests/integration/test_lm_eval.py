"""Real items of real tasks, end to end through lm-evaluation-harness, offline."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelsurgery import LanguageModel, load_model, make_edit, score_rows, select_region
from modelsurgery.edit.edit import Edit
from modelsurgery.errors import RecipeError, TextsError
from modelsurgery.evaluation.capability import TaskResult, check_tasks, measure_capability
from modelsurgery.evaluation.capability.tasks import find_tasks
from own_tasks import write_own_tasks
from talking import talking_tokenizer, write_talking_model
from tiny import tiny_sentences

pytest.importorskip("lm_eval", reason="needs the extra `eval`")


@pytest.fixture(scope="module")
def model(shared: Path) -> LanguageModel:
    return load_model(shared / "models" / "reddit-4m")


def an_edit(model: LanguageModel, strength: float) -> Edit:
    direction = np.random.default_rng(1).standard_normal(192).astype(np.float32)
    scores = score_rows(model.checkpoint, model.gates, direction[None])
    return make_edit(select_region(scores, 400), direction, strength=strength)


def measured(model: LanguageModel, task: str, shared: Path, strength: float) -> TaskResult:
    found = measure_capability(
        model, [an_edit(model, strength)], [task], data=shared / "data", limit=4, max_new_tokens=12
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
    edit = an_edit(model, 30.0)
    found = measure_capability(model, [edit], ["mmlu"], data=shared / "data", limit=24)["mmlu"]
    assert isinstance(found, TaskResult)
    assert len(found.by) == 24  # as many subjects as there can be
    assert [item.base for item in found.items] != [item.edited for item in found.items]


def test_lambada_and_wikitext_on_real_files(model: LanguageModel, shared: Path) -> None:
    found = measure_capability(model, [], ["lambada", "wikitext"], data=shared / "data", limit=8)
    told = {name: one.to_json() for name, one in found.items()}
    assert told["lambada"]["items"] == 8
    assert told["wikitext"]["windows"] == 8
    assert 20 < told["wikitext"]["base"] < 5000
    assert told["wikitext"]["edited"] is None


def test_prompts_are_those_of_lm_eval_with_the_shots_of_the_paper(shared: Path) -> None:
    found = find_tasks("gsm8k", shared / "data", None)
    assert (found.score, found.shots) == ("exact_match,flexible-extract", 8)
    bbh = find_tasks("bbh", shared / "data", None).tasks
    assert len(bbh) == 27
    written = (shared / "data/bbh/cot-prompts/navigate.txt").read_text().partition("-----\n")[2]
    task = bbh["bbh_cot_fewshot_navigate"]
    first = task.eval_docs[0]
    asked = f"{written.strip()}\n\nQ: {first['input']}\nA: Let's think step by step.\n"
    assert task.fewshot_context(first, 3) == asked
    mmlu = find_tasks("mmlu", shared / "data", None).tasks
    assert len(mmlu) == 57
    anatomy = mmlu["mmlu_anatomy"]
    prompt = anatomy.fewshot_context(anatomy.eval_docs[0], 0)
    assert prompt.startswith("The following are multiple choice questions (with answers) about ana")
    assert prompt.endswith("salivation.\nAnswer:")
    assert anatomy.doc_to_target(anatomy.eval_docs[0]) == 0


def test_any_task_of_lm_eval_can_be_named(model: LanguageModel, shared: Path) -> None:
    """A task that this package says nothing of, with a local copy of its data."""
    found = measured(model, "mmlu_anatomy", shared, strength=0.0).to_json()
    assert (found["title"], found["metric"], found["score"]) == ("mmlu_anatomy", "acc", "acc,none")
    assert (found["items"], found["shots"], found["published"]) == (4, 0, None)


def test_what_cannot_be_measured_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no capability task 'gsm9k'; expected one like .*gsm8k"):
        check_tasks(["wikitext", "gsm9k"])
    with pytest.raises(RecipeError, match="expected one with task files"):
        check_tasks(["gsm8k"], tmp_path / "none")
    write_own_tasks(tmp_path, "odd", [("what", "A")], metric="perplexity", choice=False)
    write_own_tasks(tmp_path, "coded", [("what", "A")], unsafe_code=True)
    with pytest.raises(RecipeError, match="no metric that is a mean over items"):
        find_tasks("odd", None, tmp_path)
    with pytest.raises(TextsError, match="'hellaswag': cannot load its data"):
        find_tasks("hellaswag", None, None)
    with pytest.raises(RecipeError, match="executes code"):
        find_tasks("coded", None, tmp_path)


def test_prompts_and_answers_get_the_opening_and_no_end(tmp_path: Path) -> None:
    """Too long a prompt loses its beginning behind the opening."""
    words, scores = tiny_sentences(40), {}
    rows = [(" ".join(some), "A") for some in (words[:2], words[2:4], words[4:])]
    write_own_tasks(tmp_path / "tasks", "chosen", rows)
    write_own_tasks(tmp_path / "tasks", "written", rows, choice=False)
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
        found = measure_capability(
            loaded, [], ["chosen", "written"], include=tmp_path / "tasks", max_new_tokens=4
        )
        scores[closing] = {name: one.items for name, one in found.items()}
        handle.remove()
        assert set(firsts) == {1}
    assert scores[()] == scores["</s>",]


def test_a_model_on_disk_gives_the_same_scores(tmp_path: Path) -> None:
    words = tiny_sentences(8)
    write_own_tasks(tmp_path / "tasks", "chosen", [(one, "A") for one in words])
    tokenizer = talking_tokenizer(None, opening=["<s>"], words="ABCD")
    directory = write_talking_model(tmp_path / "m", tokenizer)
    scores = []
    for options in ({}, {"device_map": {"model": "disk", "lm_head": "disk"}}):
        loaded = load_model(directory, **options)
        found = measure_capability(loaded, [], ["chosen"], include=tmp_path / "tasks")
        scores.append(found["chosen"].items)  # type: ignore[union-attr]
    assert scores[0] == scores[1]
    assert {item.base for item in scores[0]} <= {0.0, 1.0}
