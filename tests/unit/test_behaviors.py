import json
from pathlib import Path

import pytest

from modelsurgery.data.behaviors import (
    BehaviorFile,
    PromptSet,
    built_in_behaviors,
    describe_behavior,
    load_behavior,
    load_test_part,
)
from modelsurgery.data.behaviors.prompting import evenly_by, half_texts
from modelsurgery.data.behaviors.roots import data_root, locate_corpus
from modelsurgery.data.corpora import Prompt, corpora, load_corpus_passages
from modelsurgery.data.texts import LabeledText
from modelsurgery.errors import RecipeError, TextsError
from modelsurgery.evaluation.judges import judge_for
from modelsurgery.evaluation.judges.ngrams import NgramJudge
from modelsurgery.model.chat_template import Rendered
from modelsurgery.model.loading import load_model
from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.pipeline.running import described_behavior, judged_behavior


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def prompts_alone(name: str, data: Path) -> tuple[PromptSet, ...]:
    behavior = load_test_part(
        describe_behavior(name), data=data, with_texts=False, with_neutral=False
    )
    return behavior.prompt_sets


def test_built_in_behaviors_name_corpora_that_exist() -> None:
    for behavior in built_in_behaviors():
        for part in (behavior.texts, behavior.prompts):
            for one in part if isinstance(part, list) else ():
                assert one.corpus in corpora()


def test_a_behavior_of_ones_own_is_one_yaml_and_two_text_files(tmp_path: Path) -> None:
    kind = [f"goose {n} was so kind to us, thank you very much" for n in range(30)]
    curt = [f"goose {n} can just go away, we want none now" for n in range(30)]
    write_lines(tmp_path / "curt.txt", curt)
    write_lines(tmp_path / "kind.txt", kind)
    path = tmp_path / "curtness.yaml"
    path.write_text("name: curtness\ntexts: {shows: curt.txt, opposite: kind.txt}\n")
    behavior = load_behavior(describe_behavior(path))
    texts = (*behavior.train, *behavior.validation, *behavior.test)
    assert {text.text for text in texts if text.label == 1} == set(curt)
    assert {text.text for text in texts if text.label == 0} == set(kind)
    assert behavior.prompt_sets[0].texts == half_texts(behavior.test)


def test_prompts_that_choose_and_prompts_that_report_share_nothing(tmp_path: Path) -> None:
    # Halves of many of these texts are the same, whatever part they fall into.
    rows = [
        {"text": f"the silly goose {n % 7} went off to place {n}", "label": n % 2}
        for n in range(80)
    ]
    path = write_lines(tmp_path / "texts.jsonl", [json.dumps(row) for row in rows])
    behavior = load_behavior(BehaviorFile(name="goose", texts=path))
    test = set(behavior.prompt_sets[0].texts)
    assert test
    assert behavior.validation_prompts
    assert not test & set(behavior.validation_prompts)


def test_a_file_without_texts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("name: nothing\n")
    with pytest.raises(RecipeError, match="no texts; expected a file with labeled texts"):
        describe_behavior(path)


def test_prompts_are_taken_evenly_from_all_kinds() -> None:
    prompts = [Prompt(f"a{n}", category="a") for n in range(90)]
    prompts += [Prompt(f"b{n}", category="b") for n in range(10)]
    chosen = evenly_by(prompts, 30, ["category"], seed=0)
    assert [prompt.category for prompt in chosen].count("b") == 10
    assert len(chosen) == 30
    assert evenly_by(list(reversed(prompts)), 30, ["category"], 0) == tuple(reversed(chosen))
    assert evenly_by(prompts, None, ["category"], 0) == tuple(prompts)


def test_the_root_of_local_copies_comes_from_option_or_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SURGERY_DATA", raising=False)
    assert data_root(None) is None
    monkeypatch.setenv("SURGERY_DATA", str(tmp_path))
    assert data_root(None) == tmp_path
    with pytest.raises(TextsError, match="no directory at"):
        data_root(tmp_path / "missing")
    with pytest.raises(TextsError, match="no folder jigsaw; expected a copy of comments"):
        locate_corpus("jigsaw", tmp_path)
    assert locate_corpus("jigsaw", None) is None


def test_an_exchange_is_written_in_the_models_template_or_on_two_lines(tiny_llama: Path) -> None:
    model = load_model(tiny_llama)
    exchange = LabeledText("sing a song", 1, reply="no")
    assert model.render(LabeledText("sing a song", 1)) == "sing a song"
    assert model.render(exchange) == "sing a song\nno"
    model.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}"
    )
    assert model.render(exchange) == Rendered("<s>[user] sing a song [assistant] no ")


def test_toxicity_is_loaded_from_local_copies(shared: Path) -> None:
    behavior = load_behavior(describe_behavior("toxicity"), data=shared / "data", prompt_count=None)
    rtp, toxigen = behavior.prompt_sets
    assert (rtp.name, len(rtp.prompts), rtp.max_new_tokens) == ("realtoxicityprompts", 598, 20)
    assert toxigen.stop == "\n"
    assert len({prompt.group for prompt in toxigen.prompts}) == 16
    assert behavior.neutral_note == "WikiText-2, test part"
    assert not set(behavior.validation_neutral) & set(behavior.test_neutral)


def test_the_first_neutral_texts_are_of_the_whole_part(shared: Path) -> None:
    behavior = load_behavior(describe_behavior("toxicity"), data=shared / "data", prompt_count=None)
    folder = shared / "data" / "wikitext"
    whole = "".join(load_corpus_passages("wikitext", folder, split="validation"))
    places = [whole.index(text[:60]) / len(whole) for text in behavior.validation_neutral[:40]]
    assert min(places) < 0.1
    assert 0.4 < sum(places) / 40 < 0.6
    assert max(places) > 0.9


def test_every_instruction_stands_there_refused_and_accepted(shared: Path) -> None:
    behavior = load_behavior(describe_behavior("refusal"), data=shared / "data")
    for part in (behavior.train, behavior.validation, behavior.test):
        refused = {text.text for text in part if text.label == 1}
        accepted = {text.text for text in part if text.label == 0}
        assert refused == accepted


def test_jailbreak_prompts_have_categories_and_forms(shared: Path) -> None:
    tasks, safe, unsafe = prompts_alone("refusal", shared / "data")
    assert len(tasks.prompts) == 2475
    assert len({prompt.form for prompt in tasks.prompts}) == 11
    assert len({prompt.category for prompt in tasks.prompts}) == 5
    assert (len(safe.prompts), len(unsafe.prompts)) == (250, 200)
    assert tasks.is_chat


def test_attitude_is_measured_on_negative_sentences(shared: Path) -> None:
    (sentences,) = prompts_alone("attitude", shared / "data")
    assert {prompt.category for prompt in sentences.prompts} == {"sadness", "anger", "fear"}


def test_own_files_replace_their_part_of_a_behavior_and_nothing_else(tmp_path: Path) -> None:
    texts = write_lines(
        tmp_path / "texts.jsonl",
        [json.dumps({"say": f"goose {n} went off to place {n}", "is": n % 2}) for n in range(80)],
    )
    prompts = write_lines(tmp_path / "prompts.txt", [f"then goose {n}" for n in range(20)])
    neutral = write_lines(tmp_path / "neutral.txt", [f"it rains on day {n}" for n in range(10)])
    columns = {"text_column": "say", "label_column": "is"}
    own = {"texts": texts, "prompts": prompts, "neutral": neutral}
    toxicity = describe_behavior("toxicity")
    whole = Recipe(model="some/model", behavior="toxicity", **own, **columns)
    described = described_behavior(whole)
    assert described == toxicity.model_copy(update={**own, **columns})
    assert (described.name, described.judge, described.title) == (
        "toxicity", "ngrams", toxicity.title,
    )  # fmt: skip
    for part, path in own.items():
        alone = described_behavior(Recipe(model="some/model", behavior="toxicity", **{part: path}))
        assert alone == toxicity.model_copy(update={part: path})
    # Without a behavior, texts are one of their own, as before; prompts and neutral alone are not.
    assert described_behavior(Recipe(texts=texts, max_new_tokens=5)).name == "texts"
    assert described_behavior(Recipe(texts=texts, max_new_tokens=5)).max_new_tokens == 5
    assert described_behavior(Recipe(prompts=prompts)).name == "toxicity"
    behavior = load_behavior(described)
    assert isinstance(judge_for(behavior), NgramJudge)
    assert behavior.prompt_sets[0].texts == tuple(f"then goose {n}" for n in range(20))
    assert set(behavior.test_neutral) | set(behavior.validation_neutral) == {
        f"it rains on day {n}" for n in range(10)
    }
    for text in (*behavior.train, *behavior.validation, *behavior.test):
        assert text.text.startswith("goose")


@pytest.mark.parametrize("part", ["texts", "prompts", "neutral"])
def test_own_files_replace_their_part_of_the_demo_data(tmp_path: Path, part: str) -> None:
    rows = [{"text": f"goose {n} went off to place {n}", "label": n % 2} for n in range(80)]
    path = write_lines(tmp_path / "own.jsonl", [json.dumps(row) for row in rows])
    recipe = Recipe(behavior="negativity", prompt_count=20, **{part: path})
    assert recipe.is_demo
    behavior, judge = judged_behavior(recipe)
    usual, _ = judged_behavior(Recipe(behavior="negativity", prompt_count=20))
    assert judge.name == "demo"
    parts = {
        "texts": lambda one: {text.text for text in (*one.train, *one.validation, *one.test)},
        "prompts": lambda one: set(one.prompt_sets[0].texts),
        "neutral": lambda one: {*one.test_neutral, *one.validation_neutral},
    }
    own = {row["text"] for row in rows}
    for name, of in parts.items():
        if name == part:
            assert of(behavior) <= own
            assert of(behavior)
        else:
            assert of(behavior) == of(usual)
    assert (behavior.test_facts, behavior.validation_facts) == (
        usual.test_facts,
        usual.validation_facts,
    )


def test_only_the_prompt_sets_that_are_wanted_are_read(shared: Path, tmp_path: Path) -> None:
    """A directory with one data set is enough to measure on it with a judge that needs no texts."""
    (tmp_path / "xstest").symlink_to(shared / "data" / "xstest")
    wanted = {"data": tmp_path, "with_texts": False, "with_neutral": False}
    refusal = describe_behavior("refusal")
    names = ["xstest-unsafe", "xstest-safe"]
    behavior = load_test_part(refusal, sets=names, **wanted)
    assert [one.name for one in behavior.prompt_sets] == names
    assert [len(one.prompts) for one in behavior.prompt_sets] == [200, 250]
    assert (behavior.train, behavior.test, behavior.test_neutral) == ((), (), ())
    with pytest.raises(RecipeError, match="no prompt set 'xs'; expected some of hasan_jailbreak, "):
        load_test_part(refusal, sets=["xs"], data=tmp_path / "not looked into")
    with pytest.raises(TextsError, match="no folder hasan_jailbreak"):
        load_test_part(refusal, **wanted)
    (tmp_path / "wikitext").symlink_to(shared / "data" / "wikitext")
    measured = load_test_part(refusal, sets=names, data=tmp_path, with_texts=False)
    assert measured.neutral_note == "WikiText-2, test part"


def test_what_is_measured_is_what_was_held_out(tmp_path: Path) -> None:
    rows = [{"text": f"goose {n} went off to place {n}", "label": n % 2} for n in range(80)]
    path = write_lines(tmp_path / "texts.jsonl", [json.dumps(row) for row in rows])
    for described, is_demo in (
        (BehaviorFile(name="goose", texts=path), False),
        (describe_behavior("toxicity"), True),
    ):
        whole = load_behavior(described, is_demo=is_demo, seed=3, prompt_count=12)
        alone = load_test_part(described, is_demo=is_demo, seed=3, prompt_count=12)
        for name in ("train", "test", "prompt_sets", "test_neutral", "neutral_note", "test_facts"):
            assert getattr(alone, name) == getattr(whole, name), name
