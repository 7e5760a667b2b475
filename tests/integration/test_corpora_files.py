"""Every corpus is loaded from its real file; counts are those of the copies' SOURCE.md files.

Some copies are samples: half of Jigsaw and RealToxicityPrompts, 150 of the 1,000 lines of each
ToxiGen file, dair_emotion without its test part.
"""

import json
import logging
from collections import Counter
from pathlib import Path

import pytest

from modelsurgery.data.corpora import (
    corpora,
    load_corpus_passages,
    load_corpus_prompts,
    load_corpus_questions,
    load_corpus_scores,
    load_corpus_texts,
)
from modelsurgery.data.texts import check_texts, split_texts, texts_sha256


@pytest.fixture
def data(shared: Path) -> Path:
    if not (shared / "data").is_dir():
        pytest.skip("needs ../shared/data, which is not there")
    return shared / "data"


# folder, corpus, split, texts by label before repeated ones are dropped, and how many are left
TEXTS = [
    ("jigsaw", "jigsaw", None, {0: 3030, 1: 3060}, 6089),
    ("davidson_hate_offensive", "davidson", None, {0: 4163, 1: 1430 + 19190}, 24783),
    # Without the 14 ragged lines: 11,921 of 11,935 sentences, 19,730 of 19,743 rewrites.
    ("paradetox", "paradetox", None, {0: 19730, 1: 11921}, 30846),
    ("realtoxicityprompts", "realtoxicityprompts", "toxic", {0: 261, 1: 330}, 591),
    ("refusal_direction", "refusal_direction", "train", {0: 18793, 1: 260}, 19053),
    ("refusal_direction", "refusal_direction", "validation", {0: 6264, 1: 39}, 6303),
    ("refusal_direction", "refusal_direction", "test", {0: 6266, 1: 572}, 6828),
    ("goemotions", "goemotions", "train", {0: 15216, 1: 8133}, 23230),
    ("goemotions", "goemotions", "validation", {0: 1941, 1: 1014}, 2952),
    ("goemotions", "goemotions", "test", {0: 1863, 1: 1070}, 2928),
    ("dair_emotion", "dair_emotion", "train", {0: 5362 + 1304, 1: 4666 + 2159 + 1937}, 15404),
    ("dair_emotion", "dair_emotion", "validation", {0: 882, 1: 1037}, 1917),
    ("sst2", "sst2", "train", {0: 3610, 1: 3310}, 6911),
    ("sst2", "sst2", "validation", {0: 444, 1: 428}, 872),
    ("sst2", "sst2", "test", {0: 909, 1: 912}, 1821),
]


@pytest.mark.parametrize(
    ("folder", "name", "split", "labels", "unique"),
    TEXTS,
    ids=[f"{name}-{split or 'first'}" for _, name, split, _, _ in TEXTS],
)
def test_texts_have_the_published_counts(
    data: Path, folder: str, name: str, split: str | None, labels: dict[int, int], unique: int
) -> None:
    texts = load_corpus_texts(name, data / folder, split=split, unique=False)
    assert Counter(text.label for text in texts) == labels
    assert all(text.text.strip() for text in texts)
    kept = check_texts(texts, name)
    assert len(kept) == unique
    if len(texts) < 10_000:  # a second reading gives the same, to the hash
        again = load_corpus_texts(name, data / folder, split=split)
        assert texts_sha256(again) == texts_sha256(kept)


def test_sentences_and_their_rewrites_are_split_together(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    texts = load_corpus_texts("paradetox", data / "paradetox")
    assert "skipped 14 lines with another number of columns" in caplog.text
    parts = split_texts(texts)
    assert not {text.group for text in parts.train} & {text.group for text in parts.test}
    small = load_corpus_texts("paradetox", data / "paradetox", per_class=2000)
    assert Counter(text.label for text in small) == {0: 2000, 1: 2000}
    groups = [{text.group for text in small if text.label == label} for label in (0, 1)]
    assert len(groups[0] & groups[1]) > 0.95 * len(groups[0])


def test_challenging_prompts_keep_their_scores(data: Path) -> None:
    directory = data / "realtoxicityprompts"
    prompts = load_corpus_prompts("realtoxicityprompts", directory)
    assert len(prompts) == 598
    lines = (directory / "toxic.jsonl").read_text(encoding="utf-8").splitlines()
    stored = {
        row["prompt"]["text"]: row["prompt"]["toxicity"]
        for row in map(json.loads, lines)
        if row["challenging"]
    }
    assert {prompt.text: prompt.toxicity for prompt in prompts} == stored
    assert sum(prompt.continuation_toxicity is None for prompt in prompts) == 7
    others = load_corpus_prompts("realtoxicityprompts", directory, split="nontoxic", where={})
    assert len(others) == 600
    assert max(prompt.toxicity or 0 for prompt in others) < 0.5
    scores = load_corpus_scores("realtoxicityprompts", directory, split="toxic")
    assert len(scores) == 598 - 7


def test_groups_of_toxigen(data: Path) -> None:
    prompts = load_corpus_prompts("toxigen", data / "toxigen")
    by_file = Counter((prompt.category, prompt.group) for prompt in prompts)
    assert len(by_file) == 31
    assert set(by_file.values()) == {100}
    assert sum(category == "hate" for category, _ in by_file) == 16
    everything = load_corpus_prompts("toxigen", data / "toxigen", per_file=1000)
    assert len(everything) == 31 * 150
    # Lists of five to eight sentences, ending in the dash of the next one.
    assert all(prompt.text.startswith("- ") for prompt in everything)
    assert all(4 <= prompt.text.count("\n") <= 7 for prompt in everything)
    assert not any("\\n" in prompt.text for prompt in everything)
    assert sum(prompt.text.endswith("-") for prompt in everything) >= 4640


def test_harmful_instructions_have_categories_in_the_test_part(data: Path) -> None:
    prompts = load_corpus_prompts(
        "refusal_direction",
        data / "refusal_direction",
        split="test",
        where={"kind": ["harmful"]},
    )
    assert len(prompts) == 572
    assert len({prompt.text for prompt in prompts}) == 562
    assert all(prompt.category and prompt.chat for prompt in prompts)


def test_jailbreaks_are_all_tasks_in_all_forms(data: Path) -> None:
    prompts = load_corpus_prompts("hasan_jailbreak", data / "hasan_pruning_jailbreak")
    assert len(prompts) == 2475 == 225 * 11
    assert len({prompt.text for prompt in prompts}) == 2475
    by_form = Counter(prompt.form for prompt in prompts)
    assert len(by_form) == 11
    assert by_form["ORIGINAL"] == 225
    by_category = Counter(prompt.category for prompt in prompts)
    assert len(by_category) == 5
    assert set(by_category.values()) == {45 * 11}
    bare = {prompt.group: prompt.text for prompt in prompts if prompt.form == "ORIGINAL"}
    assert len(bare) == 225
    # Each form holds its own task's words: the pairing by group is right.
    assert all(bare[prompt.group or ""] in prompt.text for prompt in prompts)


def test_xstest_types_are_safe_or_unsafe(data: Path) -> None:
    prompts = load_corpus_prompts("xstest", data / "xstest")
    assert Counter(prompt.group for prompt in prompts) == {"safe": 250, "unsafe": 200}
    assert set(Counter(prompt.category for prompt in prompts).values()) == {25}
    for prompt in prompts:
        assert (prompt.category or "").startswith("contrast_") == (prompt.group == "unsafe")


def test_attitude_prompts_are_the_negative_sentences(data: Path) -> None:
    prompts = load_corpus_prompts("dair_emotion", data / "dair_emotion")
    assert Counter(prompt.category for prompt in prompts) == {
        "sadness": 4666,
        "anger": 2159,
        "fear": 1937,
    }
    assert prompts == load_corpus_prompts("dair_emotion", data / "dair_emotion" / "train.txt")


def test_capability_corpora(data: Path) -> None:
    for split, words in (("test", 241_211), ("validation", 213_886)):
        (passage,) = load_corpus_passages("wikitext", data / "wikitext", split=split)
        assert len(passage.split()) == words
    last_words = load_corpus_questions("lambada", data / "lambada")
    assert len(last_words) == 5153
    assert all(one.answer and not one.question.endswith(" ") for one in last_words)
    assert len(load_corpus_questions("gsm8k", data / "gsm8k")) == 1319
    problems = load_corpus_questions("gsm8k", data / "gsm8k", split="train")
    assert len(problems) == 7473
    assert all(
        one.answer.lstrip("-").replace(",", "").replace(".", "").isdigit() for one in problems
    )


def test_no_corpus_is_left_out_here() -> None:
    read = {name for _, name, _, _, _ in TEXTS} | {
        "toxigen",
        "hasan_jailbreak",
        "xstest",
        "wikitext",
        "lambada",
        "gsm8k",
    }
    packaged = {name for name, corpus in corpora().items() if corpus.packaged}
    assert set(corpora()) - read - packaged == {"civil_comments"}  # no copy: only on the Hub
