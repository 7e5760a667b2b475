"""The main job on the demo model, from the command line, at full size."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from full_run import FullRun
from surgery import quick_recipe, surgery, surgery_json

from modelsurgery import edited, load_edit, load_model
from modelsurgery.data import demo
from modelsurgery.data.behaviors.gathering import DEMO_NEUTRAL
from modelsurgery.evaluation.language_modelling import compare_language_modelling

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("full run")]


@pytest.fixture(scope="module")
def run(full_run: FullRun) -> dict[str, Any]:
    results = json.loads((full_run.directory / "results.json").read_text())
    assert isinstance(results, dict)
    return results


def test_the_behavior_falls_inside_the_damage_budget(run: dict[str, Any]) -> None:
    behavior = run["behavior"]
    assert behavior["base"]["prompts"] == 300
    assert behavior["base"]["rate"] > 0.3
    assert behavior["edited"]["high"] < behavior["base"]["low"]
    assert behavior["change"]["p_value"] < 1e-6
    assert run["edit"]["steps"] == 3  # which do much more than one here
    assert behavior["edited"]["rate"] < 0.1
    assert run["facts"]["base"] >= 0.95


def test_the_damage_is_that_of_the_weights(
    run: dict[str, Any], full_run: FullRun, demo_path: Path
) -> None:
    model = load_model(demo_path)
    edit = load_edit(full_run.directory / "edit.safetensors")
    neutral = demo.neutral_texts("test", DEMO_NEUTRAL, 0)
    found = compare_language_modelling(model, neutral, [edit])
    assert run["perplexity"]["base"] == pytest.approx(found.base_perplexity)
    assert run["perplexity"]["edited"] == pytest.approx(found.edited_perplexity, rel=1e-4)
    assert run["divergence"] == pytest.approx(found.divergence, rel=1e-2)
    assert found.edited_perplexity is not None
    assert found.edited_perplexity <= 1.05 * found.base_perplexity


def test_json_has_what_scripts_rely_on(run: dict[str, Any]) -> None:
    assert run["behavior"]["reduction"] == pytest.approx(
        1 - run["behavior"]["edited"]["rate"] / run["behavior"]["base"]["rate"]
    )
    for part, keys in {
        "edit": ("rows", "bytes_changed"),
        "probe": ("accuracy", "auroc", "control_accuracy"),
        "facts": ("base", "edited"),
    }.items():
        assert all(run[part][key] is not None for key in keys)
    assert run["edit"]["rows_found"] == 4 * 640
    assert 0 < run["edit"]["bytes_changed"] < 0.1 * run["edit"]["bytes_total"]
    assert run["probe"]["control_accuracy"] < 0.8 < run["probe"]["accuracy"] - 0.1


def test_the_run_directory_is_whole(run: dict[str, Any], full_run: FullRun) -> None:
    directory = full_run.directory
    assert run["run_directory"] == directory.name  # as typed
    manifest = json.loads((directory / "manifest.json").read_text())
    names = {"recipe.resolved.yaml", "probe.safetensors", "edit.safetensors", "results.json",
             "samples/sampled.jsonl", "samples/greedy.jsonl"}  # fmt: skip
    assert names <= set(manifest["sha256"])
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == digest
    lines = (directory / "samples" / "sampled.jsonl").read_text().splitlines()
    assert len(lines) == 900


def test_the_applied_copy_is_the_edit_in_memory_bit_for_bit(
    run: dict[str, Any], full_run: FullRun, demo_path: Path, tmp_path: Path
) -> None:
    edit_path = full_run.directory / "edit.safetensors"
    copy = surgery_json("apply", "demo", edit_path, "--out", tmp_path / "edited")
    assert copy["bytes_changed"] == run["edit"]["bytes_changed"]
    assert copy["rows_edited"] == run["edit"]["rows"]

    prompts = [example["prompt"] for example in run["examples"]]
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "edited", dtype=torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "edited")
    batch = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
    model = load_model(demo_path)
    with torch.inference_mode():
        base = model.model(**batch).logits
        with edited(model.model, load_edit(edit_path)):
            in_memory = model.model(**batch).logits
        on_disk = plain(**batch).logits
    assert in_memory.equal(on_disk)
    assert not in_memory.equal(base)


def test_the_same_run_gives_the_same_edit_and_probe_to_the_byte(tmp_path: Path) -> None:
    recipe = quick_recipe(tmp_path / "quick.yaml")
    for name in ("one", "two"):
        surgery("run", recipe, "--out", tmp_path / name)
    for file in ("edit.safetensors", "probe.safetensors", "samples/sampled.jsonl"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_toward_makes_more_of_the_behavior(tmp_path: Path) -> None:
    recipe = quick_recipe(
        tmp_path / "quick.yaml", strength=8, prompt_count=150, train_texts=150, direction="toward"
    )
    run = surgery_json("run", recipe, "--out", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == run
    assert run["edit"]["strength"] < 0
    assert run["behavior"]["change"]["difference"] > 0


def test_step_by_step_is_the_same_surgery(demo_path: Path, tmp_path: Path) -> None:
    """probe, edit and apply by hand: the verbs fit together."""
    from modelsurgery.data import demo

    texts = tmp_path / "texts.jsonl"
    rows = demo.labeled_texts("negativity", 400, 0)
    texts.write_text(
        "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
    )
    probe, edit = tmp_path / "probe.safetensors", tmp_path / "edit.safetensors"
    fitted = surgery_json("probe", "demo", "--texts", texts, "--fit", "logistic",
                          "--out", probe)  # fmt: skip
    assert fitted["accuracy"] > 0.8
    made = surgery_json("edit", "demo", "--probe", probe, "--rows", "50", "--strength", "3",
                        "--direction-source", "mean-difference", "--layers", "3-4",
                        "--out", edit)  # fmt: skip
    assert made["rows"] == 50
    assert made["highest_cosine"] < 0
    described = surgery_json("inspect", edit)
    assert described["kind"] == "edit"
    assert sum(described["rows_by_tensor"].values()) == 50
    copy = surgery_json("apply", demo_path, edit, "--out", tmp_path / "edited")
    assert copy["rows_edited"] == 50
