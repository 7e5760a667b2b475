import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from modelsurgery.corpora import (
    Prompt,
    Question,
    ScoredText,
    corpora,
    load_corpus_passages,
    load_corpus_prompts,
    load_corpus_questions,
    load_corpus_scores,
    load_corpus_texts,
    prompts_sha256,
)
from modelsurgery.errors import TextsError
from modelsurgery.texts import LabelledText, split_texts

COUNT = 24  # texts that a probe is given at the least: 20


def written(directory: Path, name: str, content: str | bytes) -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def json_lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def toxicity_record(number: int, **changes: Any) -> dict[str, Any]:
    record = {
        "filename": f"{number}.txt",
        "begin": 0,
        "end": 10,
        "challenging": number % 2 == 0,
        "prompt": {"text": f"Half a sentence {number}", "toxicity": 0.1},
        "continuation": {"text": f" goes on {number}.", "toxicity": 0.9 if number % 3 else None},
    }
    return record | changes


def task_tree(forms: int = 3) -> dict[str, Any]:
    return {
        f"FORM{form}": {
            category: {
                "kind": {"Low": [f"{category} task {task} in form {form}" for task in (1, 2)]}
            }
            for category in ("Cooking", "Sewing")
        }
        for form in range(forms)
    }


# ---- the registry ----------------------------------------------------------------------------


def test_every_corpus_says_what_it_is_and_where_it_is_published() -> None:
    assert len(corpora()) == 15
    for name, corpus in corpora().items():
        assert corpus.name == name
        assert corpus.home.startswith("https://")
        assert corpus.published
        assert corpus.title


def test_emotions_are_grouped_completely_and_once() -> None:
    label = corpora()["goemotions"].label
    assert label is not None
    grouped = [emotion for emotions in label.classes.values() for emotion in emotions]
    assert sorted(grouped) == sorted(label.names)
    assert {name: len(of) for name, of in label.classes.items()} == {
        "negative": 11,
        "positive": 12,
        "ambiguous": 4,
        "neutral": 1,
    }


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(TextsError, match=r"no corpus 'jigsw'; with texts there are jigsaw, "):
        load_corpus_texts("jigsw", "somewhere")
    with pytest.raises(TextsError, match=r"xstest: has no texts; with texts there are jigsaw, "):
        load_corpus_texts("xstest", "somewhere")
    with pytest.raises(TextsError, match=r"sst2: has no prompts; with prompts there are "):
        load_corpus_prompts("sst2", "somewhere")


# ---- every format ----------------------------------------------------------------------------


def test_jigsaw_has_two_columns_and_quoted_line_breaks(tmp_path: Path) -> None:
    rows = [f'"comment {n}, with ""quotes""\nand a second line",{n % 2}\r\n' for n in range(COUNT)]
    path = written(tmp_path, "balanced.csv", "".join(rows))
    texts = load_corpus_texts("jigsaw", path)
    assert texts[1] == LabelledText('comment 1, with "quotes"\nand a second line', 1)
    assert Counter(text.label for text in texts) == {0: 12, 1: 12}
    assert load_corpus_texts("jigsaw", tmp_path) == texts


def test_jigsaw_of_kaggle_has_a_header(tmp_path: Path) -> None:
    header = "id,comment_text,toxic,severe_toxic,obscene,threat,insult,identity_hate\n"
    rows = [f"{n:016x},comment {n},{n % 2},0,0,0,0,0\n" for n in range(COUNT)]
    written(tmp_path, "train.csv", header + "".join(rows))
    texts = load_corpus_texts("jigsaw", tmp_path, split="train")
    assert texts[:2] == (LabelledText("comment 0", 0), LabelledText("comment 1", 1))


def test_civil_comments_are_toxic_from_one_half(tmp_path: Path) -> None:
    scores = [0.0, 0.49, 0.5, 1]
    records = [{"text": f"comment {n}", "toxicity": scores[n % 4]} for n in range(COUNT)]
    written(tmp_path, "data/train.jsonl", json_lines(records))
    texts = load_corpus_texts("civil_comments", tmp_path)
    assert [text.label for text in texts[:4]] == [0, 0, 1, 1]
    assert load_corpus_scores("civil_comments", tmp_path)[1] == ScoredText("comment 1", 0.49)


def test_a_copy_in_parquet_has_the_columns_of_the_hub(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {
        "en_toxic_comment": [f"cold soup {n}" for n in range(12)],
        "en_neutral_comment": [f"warm soup {n}" for n in range(12)],
    }
    path = tmp_path / "train-00000-of-00001.parquet"
    parquet.write_table(arrow.table(columns), path)
    texts = load_corpus_texts("paradetox", path)
    assert texts[:2] == (
        LabelledText("cold soup 0", 1, "cold soup 0"),
        LabelledText("warm soup 0", 0, "cold soup 0"),
    )
    with pytest.raises(TextsError, match="not a readable Parquet file"):
        load_corpus_texts("paradetox", written(tmp_path, "broken.parquet", b"PAR1"))


def paradetox_file(directory: Path, extra: str = "") -> Path:
    rows = [
        f"cold soup {n}\twarm soup {n}\t{'hot soup ' + str(n) if n % 2 else ''}\t\n"
        for n in range(COUNT)
    ]
    content = "toxic\tneutral1\tneutral2\tneutral3\n" + "".join(rows) + extra
    return written(directory, "paradetox.tsv", content)


def test_a_sentence_and_its_rewrites_stay_on_one_side(tmp_path: Path) -> None:
    texts = load_corpus_texts("paradetox", paradetox_file(tmp_path))
    assert Counter(text.label for text in texts) == {1: COUNT, 0: COUNT + COUNT // 2}
    parts = split_texts(texts)
    assert not {text.group for text in parts.train} & {text.group for text in parts.held_out}
    assert {text.group for text in texts if text.label == 0} == {
        text.text for text in texts if text.label == 1
    }


def test_ragged_lines_are_left_out_up_to_the_published_number(tmp_path: Path) -> None:
    texts = load_corpus_texts("paradetox", paradetox_file(tmp_path))
    assert load_corpus_texts("paradetox", paradetox_file(tmp_path, '"half\ta line\n' * 14)) == texts
    with pytest.raises(TextsError, match=r"line 40: 2 columns; expected 4 .* all but 14 lines"):
        load_corpus_texts("paradetox", paradetox_file(tmp_path, '"half\ta line\n' * 15))


def test_tweets_of_two_classes_show_the_behavior(tmp_path: Path) -> None:
    rows = [f"{n},3,0,3,0,{n % 3},tweet {n}\n" for n in range(30)]
    header = ",count,hate_speech,offensive_language,neither,class,tweet\n"
    path = written(tmp_path, "labeled_data.csv", header + "".join(rows))
    texts = load_corpus_texts("davidson", path)
    assert [text.label for text in texts[:3]] == [1, 1, 0]
    hate_only = load_corpus_texts("davidson", path, shows=["hate"], opposite=["neither"])
    assert [text.text for text in hate_only[:3]] == ["tweet 0", "tweet 2", "tweet 3"]


def test_only_challenging_prompts_are_taken_unless_asked(tmp_path: Path) -> None:
    path = written(tmp_path, "prompts.jsonl", json_lines([toxicity_record(n) for n in range(30)]))
    prompts = load_corpus_prompts("realtoxicityprompts", tmp_path)
    assert len(prompts) == 15
    assert prompts[1] == Prompt("Half a sentence 2", toxicity=0.1, continuation_toxicity=0.9)
    assert prompts[0].continuation_toxicity is None
    assert len(load_corpus_prompts("realtoxicityprompts", path, where={})) == 30
    others = load_corpus_prompts("realtoxicityprompts", path, where={"challenging": ["false"]})
    assert len(others) == 15
    scores = load_corpus_scores("realtoxicityprompts", path)
    assert len(scores) == 20
    assert scores[0] == ScoredText(" goes on 1.", 0.9)


def toxigen_files(directory: Path) -> None:
    for kind in ("hate", "neutral"):
        for group in ("gardeners", "tall_people"):
            lines = [rf"- {kind} about {group} {n}\n- and \\n more {n}\n-" for n in range(130)]
            written(directory, f"prompts/{kind}_{group}_1k.txt", "\n".join(lines) + "\n")


def test_prompts_of_groups_are_unescaped_and_named_by_their_files(tmp_path: Path) -> None:
    toxigen_files(tmp_path)
    prompts = load_corpus_prompts("toxigen", tmp_path, per_file=130)
    assert len(prompts) == 520
    # As the authors' evaluation has it: "\\n" becomes "\n", which is a line break too.
    assert prompts[0].text == "- hate about gardeners 0\n- and \n more 0\n-"
    assert (prompts[130].category, prompts[130].group) == ("hate", "tall_people")


def test_a_hundred_of_each_file_are_chosen_stably(tmp_path: Path) -> None:
    toxigen_files(tmp_path)
    prompts = load_corpus_prompts("toxigen", tmp_path)
    counts = Counter((prompt.category, prompt.group) for prompt in prompts)
    assert set(counts.values()) == {100}
    everything = load_corpus_prompts("toxigen", tmp_path, per_file=1000)
    assert [one for one in everything if one in set(prompts)] == list(prompts)
    assert load_corpus_prompts("toxigen", tmp_path / "prompts") == prompts
    assert load_corpus_prompts("toxigen", tmp_path, seed=1) != prompts
    # A smaller choice is a part of a larger one.
    assert set(load_corpus_prompts("toxigen", tmp_path, per_file=10)) < set(prompts)


def instruction_files(directory: Path, part: str = "train") -> None:
    for kind, verb in (("harmful", "burn"), ("harmless", "bake")):
        records = [{"instruction": f"{verb} cake {n}", "category": None} for n in range(COUNT)]
        written(directory, f"splits/{kind}_{part}.json", json.dumps(records))


def test_instructions_get_their_label_from_the_file_name(tmp_path: Path) -> None:
    instruction_files(tmp_path)
    texts = load_corpus_texts("refusal_direction", tmp_path)
    assert Counter((text.text[:4], text.label) for text in texts) == {
        ("burn", 1): COUNT,
        ("bake", 0): COUNT,
    }
    prompts = load_corpus_prompts(
        "refusal_direction", tmp_path, split="train", where={"kind": ["harmful"]}
    )
    assert len(prompts) == COUNT
    assert prompts[0] == Prompt("burn cake 0", group="harmful", chat=True)
    (tmp_path / "splits/harmless_train.json").unlink()
    with pytest.raises(TextsError, match="no files of refusal_direction; expected"):
        load_corpus_texts("refusal_direction", tmp_path)


def test_forms_of_one_task_share_a_group(tmp_path: Path) -> None:
    path = written(tmp_path, "integrated.yaml", yaml.safe_dump(task_tree(), sort_keys=True))
    prompts = load_corpus_prompts("hasan_jailbreak", path)
    assert len(prompts) == 3 * 2 * 2
    assert prompts[0] == Prompt(
        "Cooking task 1 in form 0", "Cooking", "FORM0", "Cooking/kind/Low/1", True
    )
    by_group = Counter(prompt.group for prompt in prompts)
    assert len(by_group) == 4
    assert set(by_group.values()) == {3}


def test_xstest_keeps_type_and_safety(tmp_path: Path) -> None:
    header = "id,prompt,type,label,focus,note\n"
    rows = '1,"How, then?",homonyms,safe,,\n2,What now?,contrast_homonyms,unsafe,,\n'
    path = written(tmp_path, "xstest_prompts.csv", header + rows)
    assert load_corpus_prompts("xstest", path) == (
        Prompt("How, then?", "homonyms", None, "safe", True),
        Prompt("What now?", "contrast_homonyms", None, "unsafe", True),
    )


def goemotions_file(directory: Path, labels: list[str]) -> Path:
    rows = [f'comment "{n}"\t{label}\tid{n}\n' for n, label in enumerate(labels)]
    return written(directory, "original/train.tsv", "".join(rows))


def test_emotions_become_attitudes_and_mixed_ones_are_left_out(tmp_path: Path) -> None:
    # anger; anger and sadness; joy; joy and anger; neutral; joy and curiosity
    goemotions_file(tmp_path, ["2", "2,25", "17", "17,2", "27", "17,7"] * 6)
    texts = load_corpus_texts("goemotions", tmp_path, unique=False)
    assert [(text.text, text.label) for text in texts[:3]] == [
        ('comment "0"', 1),
        ('comment "1"', 1),
        ('comment "2"', 0),
    ]
    assert len(texts) == 18
    with_neutral = load_corpus_texts("goemotions", tmp_path, opposite=["positive", "neutral"])
    assert Counter(text.label for text in with_neutral) == {1: 12, 0: 12}


def test_negative_sentences_are_the_prompts_of_attitude(tmp_path: Path) -> None:
    emotions = ["joy", "sadness", "anger", "fear", "love", "surprise"]
    rows = [f"i feel {n};{emotions[n % 6]}\n" for n in range(36)]
    path = written(tmp_path, "train.txt", "text;label_name\n" + "".join(rows))
    prompts = load_corpus_prompts("dair_emotion", tmp_path)
    assert [prompt.category for prompt in prompts[:4]] == ["sadness", "anger", "fear", "sadness"]
    assert Counter(text.label for text in load_corpus_texts("dair_emotion", path)) == {1: 18, 0: 12}


def test_negative_reviews_have_label_one(tmp_path: Path) -> None:
    rows = [f'a "film" {n} .\t{n % 2}\n' for n in range(COUNT)]
    path = written(tmp_path, "dev.tsv", "sentence\tlabel\n" + "".join(rows))
    assert load_corpus_texts("sst2", path)[0] == LabelledText('a "film" 0 .', 1)
    assert load_corpus_texts("sst2", tmp_path, split="validation")[1].label == 0


def test_questions_and_passages(tmp_path: Path) -> None:
    record = {"question": "How many?", "answer": "Two and\ntwo.\n#### 1,004"}
    path = written(tmp_path, "test.jsonl", json_lines([record]))
    assert load_corpus_questions("gsm8k", path) == (Question("How many?", "1,004"),)
    path = written(tmp_path, "lambada_test.jsonl", json_lines([{"text": "one two,\nthree four"}]))
    assert load_corpus_questions("lambada", path) == (Question("one two,\nthree", "four"),)
    text = " \n = Title = \n \n A line . \n"
    written(tmp_path, "wikitext-2.test.txt", text)
    assert load_corpus_passages("wikitext", tmp_path) == (text,)
    with pytest.raises(TextsError, match="line 1: no answer; expected"):
        load_corpus_questions("lambada", written(tmp_path, "x.jsonl", json_lines([{"text": "a"}])))


# ---- choices ---------------------------------------------------------------------------------


def test_repeated_texts_go_only_when_asked(tmp_path: Path) -> None:
    rows = [f"film {n % 22}\t{n % 22 % 2}\n" for n in range(30)] + ["film 1\t0\n"]
    path = written(tmp_path, "train.tsv", "sentence\tlabel\n" + "".join(rows))
    assert len(load_corpus_texts("sst2", path, unique=False)) == 31
    # 22 different ones, of which one stands there with both labels.
    assert len(load_corpus_texts("sst2", path)) == 21
    rows = [f"{n},prompt {n % 3},type,safe\n" for n in range(6)]
    path = written(tmp_path, "x.csv", "id,prompt,type,label\n" + "".join(rows))
    assert len(load_corpus_prompts("xstest", path)) == 6
    assert [one.text[-1] for one in load_corpus_prompts("xstest", path, unique=True)] == [*"012"]


def test_a_balanced_part_keeps_the_order_and_its_pairs(tmp_path: Path) -> None:
    path = paradetox_file(tmp_path)
    everything = load_corpus_texts("paradetox", path)
    texts = load_corpus_texts("paradetox", path, per_class=8)
    assert Counter(text.label for text in texts) == {0: 8, 1: 8}
    assert [one for one in everything if one in set(texts)] == list(texts)
    neutral_groups = {text.group for text in texts if text.label == 0}
    assert neutral_groups <= {text.group for text in texts if text.label == 1}
    assert load_corpus_texts("paradetox", path, per_class=8, seed=1) != texts
    with pytest.raises(TextsError, match="at most 0 texts; expected per_class or per_file of 1"):
        load_corpus_texts("paradetox", path, per_class=0)


def test_classes_must_be_known_and_different(tmp_path: Path) -> None:
    path = goemotions_file(tmp_path, ["2", "17"])
    with pytest.raises(TextsError, match="no class 'sad'; expected some of negative, positive"):
        load_corpus_texts("goemotions", path, shows=["sad"])
    with pytest.raises(TextsError, match="class 'positive' under shows and opposite"):
        load_corpus_texts("goemotions", path, shows=["positive"])


def test_hash_of_prompts_covers_every_attribute() -> None:
    prompt = Prompt("Go on")
    others = [Prompt("Go off"), Prompt("Go on", chat=True), Prompt("Go on", toxicity=0.0)]
    assert prompts_sha256([prompt]) == prompts_sha256([Prompt("Go on")])
    assert len({prompts_sha256([one]) for one in [prompt, *others]}) == 4


# ---- the Hub ---------------------------------------------------------------------------------


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


def test_hub_failures_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_datasets(monkeypatch, ConnectionError("no\nroute"))
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
        "line 2: the id id1 stands at .*line 1 with other content",
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
        "line 1: half a surrogate pair",
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
    "no text": ("hasan_jailbreak", "a.yaml", "A: {b: {c: {d: [1]}}}", "'text' is empty or no text"),
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
        "line 2: the id 0.txt 0 10 stands at",
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
