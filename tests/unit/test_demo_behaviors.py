"""Texts and prompts of the three behaviors: balanced, repeatable, and apart from each other."""

import functools
import re
from collections.abc import Callable
from itertools import islice

import pytest

from modelsurgery.data.demo import (
    BEHAVIORS,
    Part,
    facts,
    is_reserved,
    labeled_texts,
    neutral_texts,
    prompts,
    split_sentences,
)
from modelsurgery.data.demo.grammar import training_documents
from modelsurgery.data.demo.judge import judge


@functools.cache
def documents() -> tuple[str, ...]:
    return tuple(islice(training_documents(9), 2_000))


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_labeled_texts_are_balanced_distinct_and_repeatable(behavior: str) -> None:
    texts = labeled_texts(behavior, 200, seed=5)
    assert texts == labeled_texts(behavior, 200, seed=5)
    assert texts != labeled_texts(behavior, 200, seed=6)
    assert sum(label for _, label in texts) == 100
    assert len({text for text, _ in texts}) == 200


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_labels_agree_with_the_judge(behavior: str) -> None:
    for text, label in labeled_texts(behavior, 300, seed=0):
        verdict = judge(behavior, "", text)
        assert (verdict == "behavior") == (label == 1) or verdict == "neither"


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_held_out_prompts_share_no_sentence_with_what_is_trained_on(behavior: str) -> None:
    test = prompts(behavior, "test", 400, seed=0)
    assert len(set(test)) == 400
    labeled = [text for text, _ in labeled_texts(behavior, 300, seed=0)]
    seen_texts = [*labeled, *prompts(behavior, "train", 200, 0), *neutral_texts("train", 150, 0)]
    seen_texts += documents()
    seen = {sentence for text in seen_texts for sentence in split_sentences(text)}
    for prompt in test:
        assert is_reserved(split_sentences(prompt)[0])
        assert split_sentences(prompt)[0] not in seen


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_training_text_never_begins_with_a_held_out_prompt(behavior: str) -> None:
    test = prompts(behavior, "test", 400, seed=1)
    beginnings = {" ".join(d.split(" ")[:n]) for d in documents() for n in range(2, 30)}
    assert not beginnings & set(test)


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_prompts_are_repeatable_and_most_have_the_behavior_begun(behavior: str) -> None:
    found = prompts(behavior, "train", 300, seed=2)
    assert found == prompts(behavior, "train", 300, seed=2)
    assert not set(found) & set(prompts(behavior, "test", 300, seed=2))
    if behavior == "refusal":  # an answer that complies, or a bare request
        begun = sum(judge(behavior, "", prompt) == "opposite" for prompt in found)
        bare = sum(prompt.endswith("Assistant:") for prompt in found)
        assert 0.4 < bare / len(found) < 0.6
        assert not any(judge(behavior, "", prompt) == "behavior" for prompt in found)
        assert begun > 0
    elif behavior != "compliance":
        begun = sum(judge(behavior, "", prompt) == "behavior" for prompt in found)
        assert 0.65 < begun / len(found) < 0.85
    else:
        bare = sum(prompt.endswith("Assistant:") for prompt in found)
        assert 0.15 < bare / len(found) < 0.35


def test_neutral_texts_show_no_behavior() -> None:
    for split in ("train", "test"):
        for text in neutral_texts(split, 200, seed=0):
            for behavior in BEHAVIORS:
                assert judge(behavior, "", text) != "behavior"


@pytest.mark.parametrize("make", [neutral_texts, facts])
def test_neutral_texts_and_facts_are_made_once_and_nobody_can_change_them(
    make: Callable[[Part, int, int], tuple[object, ...]],
) -> None:
    kept = make("train", 20, 5)
    assert isinstance(kept, tuple)
    again = make("train", 20, 5)
    assert again == kept
    assert all(one is other for one, other in zip(again, kept, strict=True))
    assert len(set(kept)) == 20


def test_held_out_neutral_texts_and_facts_are_never_trained_on() -> None:
    assert not set(documents()) & set(neutral_texts("test", 100, 0))
    assert all(is_reserved(prompt.split("\n")[0]) for prompt, _ in facts("test", 100, 0))
    assert not any(is_reserved(prompt.split("\n")[0]) for prompt, _ in facts("train", 100, 0))


def test_facts_ask_a_question_with_a_short_answer() -> None:
    for prompt, answer in facts("test", 100, seed=3):
        assert re.fullmatch(r"Question: .+\?\nAnswer:", prompt)
        assert re.fullmatch(r"\w+", answer)


def test_sums_are_right() -> None:
    numbers = (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    )
    values = {word: value for value, word in enumerate(numbers.split())}
    checked = 0
    for prompt, answer in facts("train", 600, seed=0):
        if match := re.search(r"(\w+) (plus|minus) (\w+)", prompt):
            x, y = values[match[1]], values[match[3]]
            assert values.get(answer, x + y) == (x + y if match[2] == "plus" else x - y)
            checked += 1
    assert checked > 100


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="toxicity, compliance, refusal, negativity"):
        prompts("anger", "train", 1, 0)
    with pytest.raises(ValueError, match="'train' or 'test', not 'validation'"):
        prompts("toxicity", "validation", 1, 0)  # type: ignore[arg-type]
