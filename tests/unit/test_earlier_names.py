"""What earlier versions called things is read; what is written has the names of today."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from modelsurgery.data import demo
from modelsurgery.data.behaviors import describe_behavior, load_behavior
from modelsurgery.data.behaviors.format import BehaviorFile, Packaged
from modelsurgery.edit.probe import Probe, ProbeMetrics, load_probe, save_probe
from modelsurgery.evaluation.judges import judge_for, judge_spec
from modelsurgery.export.public import public_recipe
from modelsurgery.files.artifact import read_artifact, write_artifact
from modelsurgery.files.schema import load_yaml
from modelsurgery.pipeline.evaluating import EvaluationPlan
from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.pipeline.runs import RECIPE_FILE, open_run
from modelsurgery.pipeline.sequence_recipe import SequenceRecipe


def test_a_recipe_may_have_earlier_names(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model: embedded\nbehaviors: [toxicity, {behavior: refusal, fit_texts: 9}]\n"
        "fit_texts: 30\ntuning_prompts: 20\ndirection_rule: W1\nstrength: 1\n"
    )
    recipe = load_yaml(path, SequenceRecipe)
    assert (recipe.model, recipe.is_demo_model) == ("demo", True)
    assert (recipe.train_texts, recipe.validation_prompts) == (30, 20)
    assert [step.train_texts for step in recipe.recipes()] == [30, 9]
    written = recipe.model_dump()
    assert {"train_texts", "validation_prompts", "direction_source"} <= set(written)
    assert not {"fit_texts", "tuning_prompts", "direction_rule"} & set(written)


def test_a_behavior_may_have_earlier_names(tmp_path: Path) -> None:
    """Built-in behaviors as the last version spelled them."""
    for name in ("toxicity", "refusal"):
        today = describe_behavior(name)
        content = today.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        content["lab"] = content.pop("demo")
        if name == "toxicity":
            packaged = content["packaged"]
            packaged["tuning_prompts"] = packaged.pop("validation_prompts")
            packaged["tuning_prompts"]["split"] = "tuning"
        else:
            content["uncalled_for"]["tuning"] = content["uncalled_for"].pop("validation")
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        assert load_yaml(path, BehaviorFile) == today
    packaged_today = describe_behavior("toxicity").packaged
    assert isinstance(packaged_today, Packaged)
    assert packaged_today.validation_prompts.split == "validation"


def test_the_demo_model_has_an_earlier_name() -> None:
    plan = EvaluationPlan(model="embedded", behavior=describe_behavior("toxicity"))
    assert (plan.model, plan.is_demo_model, plan.is_demo) == ("demo", True, True)
    assert Recipe(model="embedded") == Recipe(model="demo") == Recipe()
    assert demo.is_demo_model("embedded")
    assert not demo.is_demo_model("./embedded")


def test_the_judge_of_the_demo_model_has_an_earlier_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo").mkdir()  # no classifier, though it is a directory
    monkeypatch.chdir(tmp_path)
    behavior = load_behavior(describe_behavior("toxicity"), is_demo=True, prompt_count=5)
    assert judge_spec(behavior.described, "lab", is_demo=True) == "demo"
    for spec in (None, "demo", "lab"):
        assert judge_for(behavior, spec).name == "demo"


def test_a_probe_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "probe.safetensors"
    metrics = ProbeMetrics(0.9, 0.95, 0.5, 0.51, 100, 40)
    save_probe(Probe(np.eye(2, 6, dtype=np.float32), np.zeros(2, np.float32), 2, "adam",
                     np.ones(6, np.float32), metrics), path)  # fmt: skip
    tensors, description = read_artifact(path, "probe")
    assert description["metrics"]["test_texts"] == 40
    description["metrics"]["held_out_texts"] = description["metrics"].pop("test_texts")
    write_artifact(path, "probe", tensors, description)
    assert load_probe(path).metrics == metrics


@pytest.mark.parametrize("judge", ["lab", "demo", None])
def test_an_interrupted_run_of_an_earlier_version_goes_on(
    tmp_path: Path, judge: str | None
) -> None:
    run = tmp_path / "run"
    asked = Recipe(judge=judge).model_dump(mode="json")
    earlier = {"train_texts": "fit_texts", "validation_prompts": "tuning_prompts"}
    settled = {**asked, "model": "embedded", "judge": judge and "lab", "train_texts": 50,
               "now": "2026-01-02T03:04:05"}  # fmt: skip
    run.mkdir()
    (run / RECIPE_FILE).write_text(
        yaml.safe_dump({earlier.get(key, key): value for key, value in settled.items()},
                       sort_keys=False)
    )  # fmt: skip
    with open_run(run, asked, default_name="x", settled=("train_texts",)) as opened:
        assert opened.recorded["train_texts"] == 50
        assert opened.recorded["model"] == "demo"
        assert opened.now.year == 2026
    assert "fit_texts" not in (run / RECIPE_FILE).read_text()
    shutil.rmtree(run)


def test_a_public_recipe_says_the_direction_source_under_both_names() -> None:
    for key in ("direction_source", "direction_rule"):
        assert public_recipe({key: "W1"}, "owner/name", "ngrams") == {key: "W1"}


@pytest.mark.parametrize(
    ("part", "digest"), [("train", "50db4480014936e3"), ("test", "fccd2881f9be7b68")]
)
def test_texts_of_the_demo_stay_what_they_were(part: demo.Part, digest: str) -> None:
    """Digests are of the version in which the parts were called `train` and `held_out`."""
    texts = [
        demo.prompts("toxicity", part, 20, 0), demo.harmless_requests(part, 20, 0),
        demo.neutral_texts(part, 20, 0), demo.facts(part, 20, 0),
    ]  # fmt: skip
    assert hashlib.sha256(json.dumps(texts).encode()).hexdigest().startswith(digest)
