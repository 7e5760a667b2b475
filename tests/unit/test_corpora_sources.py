"""Corpora from the Hub, and copies that are wrong."""

import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from corpus_files import json_lines, toxicity_record, written
from modelsurgery.data.corpora import Prompt, load_corpus_prompts, load_corpus_texts
from modelsurgery.errors import TextsError

# ---- the Hub ---------------------------------------------------------------------------------


class DatasetsError(Exception):
    pass


def fake_datasets(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[dict[str, Any]]:
    """A package `datasets` that gives one answer and writes down what it was asked for."""
    calls: list[dict[str, Any]] = []

    def load_dataset(path: str, **options: Any) -> Any:
        calls.append({"path": path, **options})
        if isinstance(answer, Exception):
            raise answer
        return answer

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    module.exceptions = SimpleNamespace(DatasetsError=DatasetsError)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def test_hub_rows_get_our_columns_and_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [{"text": f"i feel {n}", "label": n % 6} for n in range(36)]
    calls = fake_datasets(monkeypatch, records)
    texts = load_corpus_texts("dair_emotion", split="validation")
    assert calls == [
        {"path": "dair-ai/emotion", "name": "split", "split": "validation", "revision": None}
    ]
    # sadness, joy, love, anger, fear; surprise is left out
    assert [text.label for text in texts[:5]] == [1, 0, 0, 1, 1]
    assert [prompt.category for prompt in load_corpus_prompts("dair_emotion")[:3]] == [
        "sadness",
        "anger",
        "fear",
    ]


def test_hub_lists_of_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [[2, 25], [17], [17, 2], [27]]
    records = [{"text": f"c {n}", "labels": labels[n % 4], "id": f"e{n}"} for n in range(40)]
    fake_datasets(monkeypatch, records)
    texts = load_corpus_texts("goemotions")
    assert Counter(text.label for text in texts) == {1: 10, 0: 10}


def test_hub_splits_can_be_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"hate_bakers_1k": [{"text": r"- a\n-"}], "neutral_bakers_1k": [{"text": "- b\n-"}]}
    calls = fake_datasets(monkeypatch, parts)
    assert load_corpus_prompts("toxigen") == (
        Prompt("- a\n-", "hate", None, "bakers"),
        Prompt("- b\n-", "neutral", None, "bakers"),
    )
    assert calls[0]["split"] is None


def test_hub_copies_without_ids_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_datasets(monkeypatch, [{"class": n % 3, "tweet": f"tweet {n}"} for n in range(30)])
    assert len(load_corpus_texts("davidson")) == 30


@pytest.mark.parametrize("kind", [ConnectionError, DatasetsError, ValueError, RuntimeError])
def test_hub_failures_are_one_line(monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    fake_datasets(monkeypatch, kind("no\nroute"))
    with pytest.raises(TextsError, match=r"cannot load SetFit/sst2 from the Hub \(no route\); or"):
        load_corpus_texts("sst2")
    with pytest.raises(TextsError, match="sst2: no split 'trial' on the Hub; expected train, val"):
        load_corpus_texts("sst2", split="trial")
    with pytest.raises(TextsError, match="hasan_jailbreak: not on the Hub; give the path of a"):
        load_corpus_prompts("hasan_jailbreak")


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TextsError, match=r"needs the package datasets; pip install .*\[data\]"):
        load_corpus_texts("sst2")


# ---- bad input -------------------------------------------------------------------------------

SST2 = "sentence\tlabel\n"
RECORD = json.dumps(toxicity_record(0))
BAD_TEXTS = {
    "empty file": ("sst2", "a.tsv", "", "the file is empty"),
    "blank file": ("sst2", "a.tsv", "\n\n", "the file is empty"),
    "header only": ("sst2", "a.tsv", SST2, "no rows; expected 6,920"),
    "wrong header": ("sst2", "a.tsv", "text\tlabel\na\t1\n", "line 1: no column 'sentence'"),
    "wrong delimiter": ("sst2", "a.tsv", "sentence,label\na,1\n", "line 1: no column 'sentence'"),
    "one column too few": ("sst2", "a.tsv", SST2 + "a\t1\nb\n", "line 3: 1 columns; expected 2"),
    "one column too many": ("sst2", "a.tsv", SST2 + "a\tb\t1\n", "line 2: 3 columns; expected 2"),
    "blank line": ("sst2", "a.tsv", SST2 + "\na\t1\n", "line 2: 1 columns; expected 2"),
    "wrong label": ("sst2", "a.tsv", SST2 + "a\t2\n", "line 2: label '2'; expected one of 0, 1"),
    "no label": ("sst2", "a.tsv", SST2 + "a\t\n", "line 2: label ''; expected one of 0, 1"),
    "empty text": ("sst2", "a.tsv", SST2 + " \t1\n", "line 2: 'sentence' is empty"),
    "not UTF-8": ("sst2", "a.tsv", SST2.encode() + b"caf\xe9\t1\n", "line 2: not UTF-8"),
    "too few": ("sst2", "a.tsv", SST2 + "a\t1\n", "1 different texts; expected at least 20"),
    "cut off in quotes": ("jigsaw", "a.csv", 'a,1\n"b, and', "unexpected end of data"),
    "text for a label": ("jigsaw", "a.csv", f"a,{'b' * 90}\n", f"label '{'b' * 24}…'"),
    "unknown emotion": ("goemotions", "a.tsv", "a\t28\tid1\n", "label '28'; expected one of anger"),
    "no emotion": ("goemotions", "a.tsv", "a\t\tid1\n", "label ''; expected one of anger"),
    "id with other content": (
        "goemotions",
        "a.tsv",
        "a\t2\tid1\nb\t2\tid1\n",
        "line 2: the id id1 occurs at .*line 1 with other content",
    ),
    "cut off in an object": ("civil_comments", "a.jsonl", '{"text": "a"', "line 1: not valid JSON"),
    "not an object": ("civil_comments", "a.jsonl", "[1]\n", "line 1: list; expected a JSON object"),
    "no score column": ("civil_comments", "a.jsonl", '{"text": "a"}\n', "no column 'toxicity'"),
    "score above one": (
        "civil_comments",
        "a.jsonl",
        '{"text": "a", "toxicity": 1.5}\n',
        "toxicity = '1.5'; expected a number from 0 to 1",
    ),
    "score not a number": (
        "civil_comments",
        "a.jsonl",
        '{"text": "a", "toxicity": NaN}\n',
        "toxicity = 'nan'; expected a number from 0 to 1",
    ),
    "half a surrogate pair": (
        "civil_comments",
        "a.jsonl",
        '{"text": "a \\ud83d", "toxicity": 1.0}\n',
        "line 1: .text. has half a surrogate pair",
    ),
    "file of unknown name": (
        "refusal_direction",
        "mine.json",
        '[{"instruction": "a"}]',
        "the name 'mine' does not say what is in the file; expected one of",
    ),
    "not a list": ("refusal_direction", "harmful_val.json", "{}", "dict; expected a list"),
    "cut off in a list": ("refusal_direction", "harmful_val.json", '[{"in', "not valid JSON"),
    "list of texts": ("refusal_direction", "harmful_val.json", '["a"]', "item 1: str; expected"),
    "empty list": ("refusal_direction", "harmful_val.json", "[]", "no rows; expected 260"),
}
BAD_PROMPTS = {
    "not YAML": ("hasan_jailbreak", "a.yaml", "A: [b", "not valid YAML"),
    "too shallow": ("hasan_jailbreak", "a.yaml", "A: {b: [c]}", "A / b: list; expected keys"),
    "too deep": (
        "hasan_jailbreak",
        "a.yaml",
        "A: {b: {c: {d: {e: [f]}}}}",
        "A / b / c / d: dict; expected a list of texts",
    ),
    "no text": (
        "hasan_jailbreak",
        "a.yaml",
        "A: {b: {c: {d: [1]}}}",
        "'text' is empty or not text",
    ),
    "a list at the top": ("hasan_jailbreak", "a.yaml", "[a]", "top: list; expected keys"),
    "no prompt": ("realtoxicityprompts", "a.jsonl", '{"challenging": true}', "no column"),
    "none challenging": (
        "realtoxicityprompts",
        "a.jsonl",
        json_lines([toxicity_record(1)]),
        r"no prompts with challenging in \['true'\]",
    ),
    "id twice": (
        "realtoxicityprompts",
        "a.jsonl",
        f"{RECORD}\n{json.dumps(toxicity_record(0, challenging=False))}\n",
        "line 2: the id 0.txt 0 10 occurs at",
    ),
    "blank prompt": ("toxigen", "hate_bakers_1k.txt", "- a\n\n- b\n", "line 2: 'text' is empty"),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_bad_texts_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    name, file, content, message = BAD_TEXTS[case]
    with pytest.raises(TextsError, match=message) as caught:
        load_corpus_texts(name, written(tmp_path, file, content))
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)  # what is wrong; what to do


@pytest.mark.parametrize("case", BAD_PROMPTS)
def test_bad_prompts_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    name, file, content, message = BAD_PROMPTS[case]
    with pytest.raises(TextsError, match=message) as caught:
        load_corpus_prompts(name, written(tmp_path, file, content))
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)


def test_equal_rows_with_one_id_count_once(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", f"{RECORD}\n{RECORD}\n")
    assert len(load_corpus_prompts("realtoxicityprompts", path)) == 1


def test_wrong_places_say_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(TextsError, match=r"no file or directory at .*published at https://github"):
        load_corpus_prompts("xstest", tmp_path / "nowhere")
    with pytest.raises(TextsError, match=r"no files of xstest; expected xstest_prompts.csv"):
        load_corpus_prompts("xstest", tmp_path)
    with pytest.raises(TextsError, match=r"sst2: no split 'trial'; expected one of train, val"):
        load_corpus_texts("sst2", tmp_path, split="trial")
    path = written(tmp_path, "train.tsv", SST2)
    with pytest.raises(TextsError, match=r"a file has no split 'train'; expected a directory"):
        load_corpus_texts("sst2", path, split="train")
