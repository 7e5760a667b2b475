"""Real items of real tasks, end to end through lm-evaluation-harness, offline."""

from pathlib import Path

import numpy as np
import pytest

from modelsurgery import LanguageModel, load_model, make_edit, score_rows, select_region
from modelsurgery.evaluation.capability import TaskResult, measure_capability

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
    assert all(item.base in (0.0, 1.0) for item in found.items)
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
