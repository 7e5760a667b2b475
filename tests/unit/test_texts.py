import csv
import json
import pickle
import random
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pyarrow as arrow
import pytest
from pyarrow import parquet

from modelsurgery.data.texts import (
    LabeledText,
    check_texts,
    load_lines,
    load_texts,
    split_texts,
    texts_sha256,
)
from modelsurgery.errors import TextsError

WANTED = tuple(LabeledText(f"sentence number {n}", n % 2) for n in range(24))


def labeled(count: int, group_size: int = 1) -> list[LabeledText]:
    """Texts with labels in turn; in groups of consecutive ones if asked for."""
    return [
        LabeledText(f"text {n}", n % 2, None if group_size == 1 else f"group {n // group_size}")
        for n in range(count)
    ]


def table(delimiter: str, line_end: str = "\n") -> str:
    rows = [("label", "text"), *((str(text.label), text.text) for text in WANTED)]
    return "".join(delimiter.join(row) + line_end for row in rows)


def json_lines(line_end: str = "\n") -> str:
    rows = ({"text": text.text, "label": text.label} for text in WANTED)
    return "".join(json.dumps(row) + line_end for row in rows)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order-mark"])
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
def test_all_formats_give_the_same_texts(
    tmp_path: Path, suffix: str, mark: bytes, line_end: str
) -> None:
    delimiters = {"csv": ",", "tsv": "\t"}
    content = table(delimiters[suffix], line_end) if suffix in delimiters else json_lines(line_end)
    path = tmp_path / f"texts.{suffix}"
    path.write_bytes(mark + content.encode())
    assert load_texts(path) == WANTED
    assert load_texts(str(path)) == WANTED


def test_last_line_needs_no_line_break(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(json_lines().rstrip("\n"))
    assert load_texts(path) == WANTED


def test_tsv_keeps_bare_quotation_marks(tmp_path: Path) -> None:
    path = tmp_path / "texts.tsv"
    path.write_text(table("\t") + '1\t"so he said\n0\the "said" so\n')
    assert [text.text for text in load_texts(path)[-2:]] == ['"so he said', 'he "said" so']


def test_csv_keeps_quoted_line_breaks_commas_and_quotes(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text(table(",") + '1,"one,\ntwo ""three"""\n')
    assert load_texts(path)[-1] == LabeledText('one,\ntwo "three"', 1)


def test_json_keeps_line_separators_inside_a_text(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    odd = "one\u2028two\x85three\r\nfour"
    line = json.dumps({"text": odd, "label": 1}, ensure_ascii=False)
    path.write_bytes((json_lines() + line).encode())
    assert load_texts(path)[-1].text == odd


def test_columns_of_other_names(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text(table(",").replace("label,text", "rude,comment"))
    assert load_texts(path, text_column="comment", label_column="rude") == WANTED
    with pytest.raises(TextsError, match=r"line 2: no column 'text'; .* found 'rude', 'comment'"):
        load_texts(path)


@pytest.mark.parametrize(
    ("label", "known"),
    [(1, 1), (True, 1), (1.0, 1), ("yes", 1), (" TRUE ", 1), (0, 0), (False, 0), ("no", 0)],
)
def test_spellings_of_labels(tmp_path: Path, label: object, known: int) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(json_lines() + json.dumps({"text": "one more", "label": label}))
    assert load_texts(path)[-1].label == known


@pytest.mark.parametrize("label", [2, -1, None, "", "rude", 0.5, [1]])
def test_other_labels_are_refused(tmp_path: Path, label: object) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(json_lines() + json.dumps({"text": "one more", "label": label}))
    with pytest.raises(TextsError, match=r"line 25: label .*; expected 1"):
        load_texts(path)


def test_groups_are_read_and_empty_ones_are_none(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    rows = [f"{text.text},{text.label},{'' if n else 7}" for n, text in enumerate(WANTED)]
    path.write_text("\n".join(["text,label,group", *rows]))
    assert [text.group for text in load_texts(path)] == ["7", *[None] * 23]


def test_repeated_texts_are_dropped_and_said(caplog: pytest.LogCaptureFixture) -> None:
    assert check_texts([*WANTED, *WANTED[:5]], "here") == WANTED
    assert "here: dropped 5 repeated texts (0 appeared with both labels)" in caplog.text


def test_text_with_both_labels_is_dropped_altogether(caplog: pytest.LogCaptureFixture) -> None:
    turned = LabeledText(WANTED[3].text, 1 - WANTED[3].label)
    assert check_texts([*WANTED, turned], "here") == WANTED[:3] + WANTED[4:]
    assert "dropped 2 repeated texts (1 appeared with both labels)" in caplog.text


def test_the_twenty_texts_are_counted_after_dropping() -> None:
    with pytest.raises(TextsError, match="here: 19 different texts; expected at least 20"):
        check_texts([*WANTED[:19], WANTED[0]], "here")


def test_both_labels_are_needed() -> None:
    with pytest.raises(TextsError, match="every label is 0"):
        check_texts([LabeledText(f"text {n}", 0) for n in range(30)], "here")


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_split_holds_out_the_share_of_each_label(share: float) -> None:
    texts = labeled(400)
    split = split_texts(texts, test_size=share)
    assert Counter(text.label for text in split.test) == {0: 200 * share, 1: 200 * share}
    assert sorted([*split.train, *split.test], key=texts.index) == texts


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_on_one_side(seed: int) -> None:
    texts = [*labeled(300, group_size=2), *labeled(100)]
    split = split_texts(texts, seed=seed)
    train, test = ({text.group for text in side} - {None} for side in (split.train, split.test))
    assert not train & test


def test_split_does_not_depend_on_the_order() -> None:
    texts = labeled(200, group_size=2)
    shuffled = random.Random(3).sample(texts, len(texts))
    assert split_texts(shuffled) == split_texts(texts)


def test_another_seed_gives_another_split() -> None:
    texts = labeled(200)
    assert set(split_texts(texts, seed=0).test) != set(split_texts(texts, seed=1).test)


def test_most_texts_stay_on_their_side_when_texts_are_added() -> None:
    before = set(split_texts(labeled(400)).test)
    after = set(split_texts(labeled(440)).test)
    assert len(before & after) >= 0.85 * len(before)


def test_loaded_texts_split_themselves_and_stay_a_tuple(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": n % 2, "group": n // 4} for n in range(200)]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = load_texts(path)
    assert texts == tuple(LabeledText(f"text {n}", n % 2, str(n // 4)) for n in range(200))
    split = texts.split(test_size=0.3, seed=4)
    assert split == split_texts(tuple(texts), test_size=0.3, seed=4)
    assert Counter(text.label for text in split.test) == {0: 30, 1: 30}
    assert not {text.group for text in split.train} & {text.group for text in split.test}
    assert texts.split(seed=5) != texts.split(seed=6)
    assert pickle.loads(pickle.dumps(texts)).split() == texts.split()  # noqa: S301


def test_split_that_would_lack_a_label_is_refused() -> None:
    texts = [LabeledText(f"text {n}", n % 2, "one group") for n in range(40)]
    with pytest.raises(TextsError, match="the train part would lack a label"):
        split_texts(texts)


def test_hash_depends_on_text_label_and_group() -> None:
    text = LabeledText("a", 1)
    others = [LabeledText("b", 1), LabeledText("a", 0), LabeledText("a", 1, "g")]
    assert len({texts_sha256([one]) for one in (text, *others)}) == 4


def test_lines_of_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\\nlines\r\n'three'\r\n")
    assert load_lines(path) == ("one", "two\nlines", "'three'")


def test_lines_of_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "one"}, {"text": "two"}, {"prompt": {"text": "three", "toxicity": 0.5}}]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert load_lines(str(path)) == ("one", "two", "three")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"", "the file is empty"),
        ("a.txt", b"\xef\xbb\xbf\n\n", "the file is empty"),
        ("a.txt", b"one\n\ntwo\n", "line 2: the text is empty"),
        ("a.txt", b"one\n\xff\n", "line 2: not UTF-8"),
        ("a.jsonl", b'{"prompt": "one"}\n{"prompt": " "}', "line 2: the text is empty"),
        ("a.jsonl", b'{"prompt": "one"}\n{"other": "two"}', "line 2: no field 'prompt' or 'text'"),
        ("a.jsonl", b'{"prompt": "one"}\nthree', "line 2: not valid JSON"),
        ("a.jsonl", b'{"prompt": "\\udc00"}', "line 1: the text has half a surrogate"),
        ("a.json", b'{"prompt": "one"}', "dict; expected a list of objects"),
        ("a.json", b'{"prompt": "one"}\n{"prompt": "two"}', "not valid JSON.*suffix .jsonl"),
        ("a.json", b'["one", 2]', "item 2: int; expected a JSON object"),
        ("a.json", b'[{"prompt": ""}]', "item 1: the text is empty"),
        ("a.json", b"[]", "no rows; expected some texts"),
        ("a.csv", b"prompt\n", "no rows; expected some texts"),
        ("a.csv", b"one\ntwo\n", "line 2: no field 'prompt' or 'text'; found 'one'"),
        ("a.csv", b"prompt,prompt\none,two\n", "line 1: two columns 'prompt'"),
        ("a.csv", b'prompt\n"one \\"two\\" three"\n', "line 2: .*expected CSV with quotation"),
        ("a.csv", b'prompt,label\n"one, two', "line 2: unexpected end of data"),
        ("a.tsv", b"prompt\tlabel\none\n", "line 2: 1 columns; expected 2"),
        ("a.parquet", b"PAR1", "not a readable Parquet file"),
        ("a", b"one\n", "unknown kind of file ''; expected .txt, .jsonl, .json, .csv, .tsv, .parq"),
        ("a.yaml", b"- one\n", "unknown kind of file '.yaml'"),
        ("a.JSONL.gz", b"\x1f\x8b", "unknown kind of file '.gz'"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TextsError, match=says):
        load_lines(tmp_path / name)


PROMPTS = ("one, two", 'the "third"', "a\nb", "Ünï")


def prompt_file(path: Path, kind: str, column: str = "prompt") -> Path:
    """PROMPTS in a file of a kind."""
    rows = [{"number": str(n), column: text} for n, text in enumerate(PROMPTS)]
    if kind == "txt":
        path.write_text("".join(text.replace("\n", "\\n") + "\n" for text in PROMPTS))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "json":
        path.write_text(json.dumps(rows, indent=2))
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["number", column])
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "tsv":
        lines = ("\t".join(row.values()).replace("\n", "\u2028") for row in rows)
        path.write_text("\n".join([f"number\t{column}", *lines]))
    else:
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("column", ["prompt", "text"])
@pytest.mark.parametrize("is_upper", [False, True], ids=["lower", "upper"])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "json", "csv", "tsv", "parquet"])
def test_prompts_are_the_same_in_every_form(
    tmp_path: Path, kind: str, is_upper: bool, column: str
) -> None:
    path = prompt_file(tmp_path / f"a.{kind.upper() if is_upper else kind}", kind, column)
    tsv = tuple(text.replace("\n", "\u2028") for text in PROMPTS)  # it has no line breaks inside
    assert load_lines(path) == (tsv if kind == "tsv" else PROMPTS)


def test_prompts_are_a_list_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(list(PROMPTS)))
    assert load_lines(path) == PROMPTS


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_labeled_texts_are_the_same_in_every_form_and_case(tmp_path: Path, kind: str) -> None:
    rows = [{"text": text.text, "label": str(text.label)} for text in WANTED]
    path = tmp_path / f"texts.{kind.upper()}"
    if kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "parquet":
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    else:
        path.write_text(json_lines() if kind == "jsonl" else table("," if kind == "csv" else "\t"))
    assert load_texts(path) == WANTED


def test_a_field_of_csv_may_have_any_length(tmp_path: Path) -> None:
    long = 'so "long", ' * 100_000
    path = tmp_path / "texts.csv"
    quoted = long.replace('"', '""')
    path.write_text(table(",") + f'1,"{quoted}"\n')
    assert load_texts(path)[-1] == LabeledText(long, 1)


@pytest.mark.parametrize("column", ["text", "prompt"])
def test_labeled_exchanges_have_a_reply(tmp_path: Path, column: str) -> None:
    rows = [
        {column: f"question {n // 2}", "reply": f"answer {n % 2}", "label": n % 2}
        for n in range(20)
    ]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_texts(path) == tuple(
        LabeledText(f"question {n // 2}", n % 2, reply=f"answer {n % 2}") for n in range(20)
    )
    path.write_text("".join(json.dumps(row | {"reply": None}) + "\n" for row in rows[::2]) * 2)
    with pytest.raises(TextsError, match="10 different texts"):  # without replies, texts only
        load_texts(path)
    path.write_text(json.dumps(rows[0] | {"reply": " "}))
    with pytest.raises(TextsError, match="line 1: the reply is empty"):
        load_texts(path)


def test_a_source_on_the_hub_is_one_as_a_path_too(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str]] = []

    def load_dataset(name: str, split: str) -> list[dict[str, object]]:
        calls.append((name, split))
        return [{"text": text.text, "label": text.label} for text in WANTED]

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    assert load_texts(Path("hub:owner/name:test")) == WANTED  # as --texts gives it
    assert load_lines("hub:owner/name") == tuple(text.text for text in WANTED)
    assert calls == [("owner/name", "test"), ("owner/name", "train")]


def test_missing_files(tmp_path: Path) -> None:
    for load in (load_texts, load_lines):
        with pytest.raises(TextsError, match="no file at"):
            load(tmp_path / "missing.jsonl")
