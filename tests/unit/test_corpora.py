import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from corpus_files import json_lines, toxicity_record, written
from modelsurgery.data.corpora import (
    Prompt,
    Question,
    ScoredText,
    corpora,
    load_corpus_passages,
    load_corpus_prompts,
    load_corpus_questions,
    load_corpus_scores,
    load_corpus_texts,
)
from modelsurgery.data.texts import LabeledText, split_texts
from modelsurgery.errors import TextsError

COUNT = 24  # texts that a probe is given at the least: 20


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
    assert len(corpora()) == 18
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
    with pytest.raises(TextsError, match=r"no corpus 'jigsw'; corpora with texts: jigsaw, "):
        load_corpus_texts("jigsw", "somewhere")
    with pytest.raises(TextsError, match=r"xstest: has no texts; corpora with texts: jigsaw, "):
        load_corpus_texts("xstest", "somewhere")
    with pytest.raises(TextsError, match=r"sst2: has no prompts; corpora with prompts: "):
        load_corpus_prompts("sst2", "somewhere")


# ---- every format ----------------------------------------------------------------------------


def test_jigsaw_has_two_columns_and_quoted_line_breaks(tmp_path: Path) -> None:
    rows = [f'"comment {n}, with ""quotes""\nand a second line",{n % 2}\r\n' for n in range(COUNT)]
    path = written(tmp_path, "balanced.csv", "".join(rows))
    texts = load_corpus_texts("jigsaw", path)
    assert texts[1] == LabeledText('comment 1, with "quotes"\nand a second line', 1)
    assert Counter(text.label for text in texts) == {0: 12, 1: 12}
    assert load_corpus_texts("jigsaw", tmp_path) == texts


def test_jigsaw_of_kaggle_has_a_header(tmp_path: Path) -> None:
    header = "id,comment_text,toxic,severe_toxic,obscene,threat,insult,identity_hate\n"
    rows = [f"{n:016x},comment {n},{n % 2},0,0,0,0,0\n" for n in range(COUNT)]
    written(tmp_path, "train.csv", header + "".join(rows))
    texts = load_corpus_texts("jigsaw", tmp_path, split="train")
    assert texts[:2] == (LabeledText("comment 0", 0), LabeledText("comment 1", 1))


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
        LabeledText("cold soup 0", 1, "cold soup 0"),
        LabeledText("warm soup 0", 0, "cold soup 0"),
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
    assert not {text.group for text in parts.train} & {text.group for text in parts.test}
    assert {text.group for text in texts if text.label == 0} == {
        text.text for text in texts if text.label == 1
    }


def test_ragged_lines_are_left_out_up_to_the_published_number(tmp_path: Path) -> None:
    texts = load_corpus_texts("paradetox", paradetox_file(tmp_path))
    assert load_corpus_texts("paradetox", paradetox_file(tmp_path, '"half\ta line\n' * 14)) == texts
    expected = (
        r"line 40: 2 columns; expected 4 .* all but 14 lines, download the published file again$"
    )
    with pytest.raises(TextsError, match=expected):
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
    # As open-instruct's evaluation has it: "\\n" becomes "\n", which is a line break too.
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
    assert load_corpus_texts("sst2", path)[0] == LabeledText('a "film" 0 .', 1)
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
    with pytest.raises(TextsError, match="class 'positive' under both shows and opposite"):
        load_corpus_texts("goemotions", path, shows=["positive"])


def test_a_lone_name_is_a_name(tmp_path: Path) -> None:
    path = goemotions_file(tmp_path, ["2", "27"] * 12)
    texts = load_corpus_texts("goemotions", path, shows="negative", opposite="neutral")
    assert Counter(text.label for text in texts) == {0: 12, 1: 12}
    rows = "1,One?,type,safe\n2,Two?,type,unsafe\n"
    path = written(tmp_path, "x.csv", "id,prompt,type,label\n" + rows)
    assert len(load_corpus_prompts("xstest", path, where={"label": "unsafe"})) == 1
