"""The texts that ship with the package: what is in them, that they repeat, when they are taken.

None of them is quoted here.
"""

import gzip
import importlib.util
import json
import logging
from pathlib import Path
from types import ModuleType

import pytest

from modelsurgery.data.behaviors import (
    BehaviorFile,
    describe_behavior,
    load_behavior,
    load_test_part,
)
from modelsurgery.data.behaviors.roots import HUB, data_root, local_root, locate_corpus
from modelsurgery.data.corpora import (
    load_corpus_passages,
    load_corpus_prompts,
    load_corpus_texts,
)
from modelsurgery.data.corpora.format import FileFormat
from modelsurgery.data.corpora.reading import read_records
from modelsurgery.data.corpora.sources import PACKAGED_DIRECTORY
from modelsurgery.errors import TextsError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "packaged_texts", ROOT / "tools" / "packaged_texts.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain(text: str) -> str:
    return " ".join(text.casefold().split())


def test_pairs_and_prompts_are_as_many_and_as_long_as_said_and_share_nothing() -> None:
    texts = load_corpus_texts("toxicity_pairs")
    groups = {text.group for text in texts}
    assert (len(texts), len(groups)) == (800, 400)
    assert sum(text.label for text in texts) == 400
    test, validation = (
        load_corpus_prompts("toxicity_prompts", split=split) for split in ("test", "validation")
    )
    assert (len(test), len(validation)) == (300, 100)
    everything = [one.text for one in (*texts, *test, *validation)]
    assert len({plain(text) for text in everything}) == len(everything)
    assert all(4 <= len(text.split()) <= 30 for text in everything)
    assert all(prompt.toxicity is not None for prompt in (*test, *validation))


def test_both_parts_of_plain_text_are_of_one_size_and_share_nothing() -> None:
    parts = [load_corpus_passages("plain_text", split=split) for split in ("test", "validation")]
    for part in parts:
        assert 9400 <= sum(len(text.split()) for text in part) < 9500
    everything = [plain(text) for part in parts for text in part]
    assert len(set(everything)) == len(everything)


def test_the_files_are_small_and_nothing_in_them_can_be_read_by_chance() -> None:
    files = sorted(PACKAGED_DIRECTORY.iterdir())
    packed = [path for path in files if path.suffix == ".gz"]
    assert sum(path.stat().st_size for path in packed) < 100_000
    assert {path.name for path in files} - {path.name for path in packed} == {
        "NOTICE.md",
        "LICENSE-gsm8k",
    }
    notice = (PACKAGED_DIRECTORY / "NOTICE.md").read_text()
    for path in packed:
        assert path.name.partition(".")[0] in notice


def test_the_script_makes_the_files_again(script: ModuleType, shared: Path) -> None:
    data = shared / "data"
    test, validation = script.prompts(data)
    made = {
        "toxicity_pairs": script.pairs(data, {one["text"] for one in (*test, *validation)}),
        "toxicity_prompts_test": test,
        "toxicity_prompts_validation": validation,
    }
    made["plain_text_test"], made["plain_text_validation"] = script.plain_text(data)
    for name, records in made.items():
        stored = gzip.decompress((PACKAGED_DIRECTORY / f"{name}.jsonl.gz").read_bytes())
        assert stored == gzip.decompress(script.compressed(records)), name
        assert script.compressed(records) == script.compressed(records)


def test_toxicity_needs_no_data_and_says_in_one_line_what_it_takes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        behavior = load_behavior(describe_behavior("toxicity"))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(
        "toxicity: using toxic sentences of ParaDetox with a neutral rewrite and "
    )
    assert "which ship with the package" in line
    assert "--data DIR" in line
    assert "\n" not in line
    assert [len(part) for part in (behavior.train, behavior.validation, behavior.test)] == [
        480,
        160,
        160,
    ]
    groups = [
        {text.group for text in part}
        for part in (behavior.train, behavior.validation, behavior.test)
    ]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 400
    (prompts,) = behavior.prompt_sets
    assert (prompts.name, len(prompts.texts), prompts.max_new_tokens) == (
        "toxicity_prompts",
        300,
        20,
    )
    assert len(behavior.validation_prompts) == 100
    assert not set(prompts.texts) & set(behavior.validation_prompts)
    assert not set(behavior.test_neutral) & set(behavior.validation_neutral)
    assert behavior.neutral_note == "little stories of GSM8K and neutral remarks of GoEmotions"
    assert load_test_part(describe_behavior("toxicity"), prompt_count=300).prompt_sets == (prompts,)


def test_data_that_are_given_come_first(shared: Path) -> None:
    behavior = load_behavior(describe_behavior("toxicity"), data=shared / "data", prompt_count=5)
    assert [one.name for one in behavior.prompt_sets] == ["realtoxicityprompts", "toxigen"]
    assert behavior.neutral_note == "WikiText-2, test part"


def test_prompts_neutral_text_and_length_of_a_users_own_come_first(tmp_path: Path) -> None:
    for name in ("prompts.txt", "neutral.txt"):
        (tmp_path / name).write_text("".join(f"the goose goes to {n}\n" for n in range(4)))
    described = describe_behavior("toxicity")
    own = described.model_copy(
        update={"prompts": tmp_path / "prompts.txt", "neutral": tmp_path / "neutral.txt"}
    )
    behavior = load_behavior(own)
    assert behavior.prompt_sets[0].texts == tuple(f"the goose goes to {n}" for n in range(4))
    assert behavior.neutral_note == "neutral.txt"
    rows = [{"text": f"goose number {n} goes off to place {n}", "label": n % 2} for n in range(60)]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine = load_behavior(described.with_own(texts=texts))
    assert {text.text for text in mine.train} <= {row["text"] for row in rows}
    assert mine.prompt_sets[0].name == "toxicity_prompts"
    assert len(mine.validation_prompts) == 100
    nothing = load_behavior(described.with_own(texts=texts, prompts=tmp_path / "prompts.txt"))
    assert nothing.neutral_note.startswith("held-out texts with label 0")
    short = load_behavior(described.with_length(7))
    assert short.prompt_sets[0].max_new_tokens == 7


def test_hub_in_place_of_a_directory_asks_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_root(Path("hub")) == HUB
    assert local_root(HUB) is None
    assert locate_corpus("jigsaw", HUB) is None
    with pytest.raises(TextsError, match="cannot load allenai/real-toxicity-prompts from"):
        load_behavior(describe_behavior("toxicity"), data=HUB)
    (tmp_path / "hub").mkdir()  # a directory of that name comes first
    assert local_root(HUB) == HUB
    with pytest.raises(TextsError, match="hub: no folder jigsaw"):
        locate_corpus("jigsaw", HUB)


def test_a_behavior_of_ones_own_may_name_packaged_texts_beside_local_data(tmp_path: Path) -> None:
    described = BehaviorFile.model_validate(
        {
            "name": "mine",
            "texts": [{"corpus": "toxicity_pairs"}],
            "prompts": [{"corpus": "toxicity_prompts"}],
        }
    )
    behavior = load_behavior(described, data=tmp_path)
    assert len(behavior.prompt_sets[0].texts) == 300


def test_a_compressed_file_is_read_as_any_other_and_must_be_whole(tmp_path: Path) -> None:
    form = FileFormat(kind="jsonl")
    path = tmp_path / "texts.jsonl.gz"
    content = gzip.compress(json.dumps({"text": "a goose"}).encode() + b"\n")
    path.write_bytes(content)
    (row,) = read_records(path, form)
    assert row.values == {"text": "a goose"}
    for damaged in (content[:-6], b"no gzip", content[:12] + b"\xff\xff" + content[14:]):
        path.write_bytes(damaged)
        with pytest.raises(TextsError, match="not whole"):
            list(read_records(path, form))
