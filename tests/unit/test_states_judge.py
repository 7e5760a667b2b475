"""A judge that reads with a language model's hidden states."""

import pytest

from modelsurgery import demo_model_path
from modelsurgery.data.behaviors import Behavior, describe_behavior, load_behavior
from modelsurgery.errors import ModelNotFoundError
from modelsurgery.evaluation.judges import judge_for
from modelsurgery.evaluation.judges.states import StatesJudge


@pytest.fixture(scope="module")
def behavior() -> Behavior:
    return load_behavior(describe_behavior("toxicity"), is_demo=True)


@pytest.fixture(scope="module")
def judge(behavior: Behavior) -> StatesJudge:
    found = judge_for(behavior, f"states:{demo_model_path()}")
    assert isinstance(found, StatesJudge)
    return found


def test_it_agrees_with_the_exact_judge(judge: StatesJudge, behavior: Behavior) -> None:
    texts = [text for text in behavior.test if text.text.strip()][:200]
    exact = [text.label for text in texts]
    given = judge(["" for _ in texts], [text.text for text in texts])
    right = sum((one == "behavior") == bool(label) for one, label in zip(given, exact, strict=True))
    assert right / len(texts) > 0.95
    assert judge.auroc > 0.98
    assert "linear probe on hidden states" in judge.note


def test_empty_continuations_fail_and_the_prompt_is_not_read(judge: StatesJudge) -> None:
    text = "You are a mean liar."
    first = judge(["He is"], [text])
    assert judge(["Thank you,", "x"], [text, "  "]) == [*first, "failed"]


def test_the_same_texts_make_the_same_judge(judge: StatesJudge, behavior: Behavior) -> None:
    again = judge_for(behavior, f"states:{demo_model_path()}")
    assert again.version == judge.version
    other = judge_for(behavior, f"states:{demo_model_path()}", seed=1)
    assert other.version != judge.version


def test_a_model_that_is_not_there_is_refused(behavior: Behavior) -> None:
    with pytest.raises(ModelNotFoundError):
        judge_for(behavior, "states:./nothing")
