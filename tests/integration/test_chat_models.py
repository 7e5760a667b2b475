"""A chat model reads the ids of its own template, and no others, in every verb that asks it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn.modules.module import register_module_forward_pre_hook

from families import random_edit
from modelsurgery import load_model, save_edit
from modelsurgery.cli import app
from modelsurgery.data.behaviors import describe_behavior
from modelsurgery.data.behaviors.packaging import packaged_problems
from modelsurgery.model.chat_template import ChatTemplate
from modelsurgery.pipeline.evaluating import EvaluationPlan, run_evaluation
from talking import DATED, SMOLLM_2, talking_tokenizer, template_ids, write_talking_model
from tiny import tiny_sentences

SENTENCES = tiny_sentences(120)
ASKED, NEUTRAL = SENTENCES[:8], SENTENCES[100:]
REPLIES = {"shows": ["no so sad"], "opposite": ["the cat is very happy"]}
Ids = tuple[int, ...]


@pytest.fixture(scope="module", params=["tiny", "SmolLM2-135M-Instruct"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "tiny":
        tokenizer = talking_tokenizer(
            SMOLLM_2, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
        )
        return write_talking_model(tmp_path_factory.mktemp("chat") / "model", tokenizer)
    directory = os.environ.get("SURGERY_TEST_SMOLLM2")
    if directory is None:
        pytest.skip("needs SmolLM2-135M-Instruct; SURGERY_TEST_SMOLLM2 names its directory")
    return Path(directory)


@pytest.fixture(scope="module")
def behavior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A behavior of exchanges and users' turns, with its data in their published form beside it."""
    folder = tmp_path_factory.mktemp("behavior")
    splits = folder / "refusal_direction" / "dataset" / "splits"
    splits.mkdir(parents=True)
    for number, kind in enumerate(("harmful", "harmless")):
        for place, part in enumerate(("train", "val", "test")):
            start = 8 + 46 * number + 15 * place
            rows = [{"instruction": one, "category": None} for one in SENTENCES[start : start + 15]]
            (splits / f"{kind}_{part}.json").write_text(json.dumps(rows))
    (folder / "xstest").mkdir()
    rows_of_prompts = [f"{number},{one},t,safe" for number, one in enumerate(ASKED)]
    prompts = "\n".join(["id,prompt,type,label", *rows_of_prompts])
    (folder / "xstest" / "xstest_prompts.csv").write_text(prompts + "\n")
    (folder / "neutral.txt").write_text("\n".join(NEUTRAL))
    described = {
        "name": "refusal", "title": "no", "shows": "no", "opposite": "yes", "judge": "phrases",
        "texts": [{"corpus": "refusal_direction", "split": "train", "replies": REPLIES}],
        "prompts": [{"corpus": "xstest", "title": "asked", "max_new_tokens": 3}],
        "neutral": str(folder / "neutral.txt"),
    }  # fmt: skip
    (folder / "no.yaml").write_text(yaml.safe_dump(described))
    return folder / "no.yaml"


@contextmanager
def reading(padding: int) -> Iterator[set[Ids]]:
    """All rows of more than a token that an embedding reads, without padding at either end."""
    rows: set[Ids] = set()

    def watch(module: Any, inputs: Any) -> None:
        if isinstance(module, torch.nn.Embedding) and inputs[0].ndim == 2:
            for row in inputs[0].tolist():
                start = next((n for n, one in enumerate(row) if one != padding), 0)
                end = max((n for n, one in enumerate(row) if one != padding), default=-1)
                if len(row) > 1:
                    rows.add(tuple(row[start : end + 1]))

    handle = register_module_forward_pre_hook(watch)
    try:
        yield rows
    finally:
        handle.remove()


def prompts_of(tokenizer: Any) -> set[Ids]:
    return {tuple(template_ids(tokenizer, [("user", one)])) for one in ASKED}


def exchanges_of(tokenizer: Any) -> set[Ids]:
    return {
        tuple(template_ids(tokenizer, [("user", one), ("assistant", reply)],
                           add_generation_prompt=False))
        for one in SENTENCES for (reply,) in REPLIES.values()
    }  # fmt: skip


def raw(tokenizer: Any, texts: list[str]) -> set[Ids]:
    return {tuple(ids) for ids in tokenizer(texts)["input_ids"]}


def tokenizer_of(model: Path) -> Any:
    return load_model(model).tokenizer


def test_run_reads_exchanges_and_prompts_as_the_template_has_them(
    model: Path, behavior: Path, tmp_path: Path
) -> None:
    from modelsurgery import Recipe, run_recipe

    tokenizer = tokenizer_of(model)
    recipe = Recipe(
        model=str(model), behavior=str(behavior), data=behavior.parent, strength=0.2, samples=1,
        out=tmp_path / "run",
    )  # fmt: skip
    with reading(tokenizer.pad_token_id) as rows:
        run_recipe(recipe)
    prompts, exchanges = prompts_of(tokenizer), exchanges_of(tokenizer)
    neutral = raw(tokenizer, NEUTRAL)
    assert prompts <= rows
    assert len(rows & exchanges) >= 40  # 30 instructions with both replies, less a fifth to tune
    # What is left are the model's own answers to the texts' requests, and these requests.
    asked = {tuple(template_ids(tokenizer, [("user", one)])) for one in SENTENCES}
    own = {row for row in rows if any(row[: len(one)] == one for one in asked)}
    problems = raw(tokenizer, list(packaged_problems()))  # capability prompts of the report
    assert rows - own <= prompts | neutral | problems
    assert rows & neutral
    assert rows & problems


def test_evaluate_reads_prompts_as_the_template_has_them(
    model: Path, behavior: Path, tmp_path: Path
) -> None:
    tokenizer = tokenizer_of(model)
    edit = tmp_path / "edit.safetensors"
    save_edit(random_edit(model), edit)
    plan = EvaluationPlan(
        model=str(model), edits=(edit,), behavior=describe_behavior(str(behavior)),
        data=behavior.parent, out=tmp_path / "run",
    )  # fmt: skip
    with reading(tokenizer.pad_token_id) as rows:
        run_evaluation(plan)
    assert prompts_of(tokenizer) <= rows
    assert rows <= prompts_of(tokenizer) | raw(tokenizer, NEUTRAL)


def test_chat_reads_the_conversation_as_the_template_has_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tokenizer_of(model)
    edit, said = tmp_path / "edit.safetensors", tmp_path / "said.txt"
    save_edit(random_edit(model).scaled(0.0), edit)
    said.write_text("".join(f"{one}\n" for one in ASKED[:2]))
    with reading(tokenizer.pad_token_id) as rows, said.open() as lines:
        monkeypatch.setattr("sys.stdin", lines)
        app(["chat", str(model), "--edit", str(edit), "--max-new-tokens", "3", "--json"],
            standalone_mode=False)  # fmt: skip
    first = json.loads(capsys.readouterr().out.splitlines()[0])["base"]["text"]
    turns = [("user", ASKED[0]), ("assistant", first), ("user", ASKED[1])]
    assert rows == {
        tuple(template_ids(tokenizer, turns[:1])),
        tuple(template_ids(tokenizer, turns)),
    }


def test_probe_reads_plain_texts_as_the_tokenizer_has_them(model: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(model)
    texts = [{"text": one, "label": number % 2} for number, one in enumerate(SENTENCES[:40])]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in texts))
    with reading(tokenizer.pad_token_id) as rows:
        app(["probe", str(model), "--texts", str(tmp_path / "texts.jsonl"), "--fit",
             "mean-difference", "--out", str(tmp_path / "probe.safetensors")],
            standalone_mode=False)  # fmt: skip
    assert rows == raw(tokenizer, SENTENCES[:40])


def test_an_evaluation_that_goes_on_another_day_tells_the_template_the_first(
    behavior: Path, tmp_path: Path
) -> None:
    model = write_talking_model(tmp_path / "model", talking_tokenizer(DATED))
    plan = EvaluationPlan(
        model=str(model), behavior=describe_behavior(str(behavior)), data=behavior.parent,
        out=tmp_path / "run",
    )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        run_evaluation(plan, progress=_until("generate"))
    recipe = tmp_path / "run" / "recipe.resolved.yaml"
    recorded = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**recorded, "now": "2001-02-03T23:59:00"}, sort_keys=False))
    with reading(0) as rows:
        run_evaluation(plan)
    tokenizer = tokenizer_of(model)
    template = ChatTemplate(tokenizer, now=datetime(2001, 2, 3))
    prompts = [template.prompt([("user", one)]).text for one in ASKED]
    assert all("03 Feb 2001" in one for one in prompts)
    expected = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    assert {tuple(ids) for ids in expected} <= rows


def _until(stop: str) -> Any:
    """A progress that is interrupted when a stage begins."""

    @contextmanager
    def progress(stage: str, total: int) -> Iterator[Any]:
        if stage == stop:
            raise KeyboardInterrupt
        yield lambda count, tokens=0: None

    return progress
