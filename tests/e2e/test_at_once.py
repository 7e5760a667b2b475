"""One edit of the demo model for two behaviors at once, made and measured as a user does."""

import json
from pathlib import Path

import pytest
from surgery import SHOWN_OR_NOT, surgery, surgery_fails, surgery_json

from modelsurgery import load_edit
from modelsurgery.data import demo

pytestmark = pytest.mark.slow

BEHAVIORS = ("toxicity", "negativity")


def test_one_edit_lowers_both_rates(tmp_path: Path) -> None:
    texts: list[str | Path] = []
    for name in BEHAVIORS:
        rows = demo.labeled_texts(name, 160, 0)
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(lines))
        texts += ["--texts", path]
    neutral, edit = tmp_path / "neutral.jsonl", tmp_path / "e.safetensors"
    plain = demo.neutral_texts("train", 160, 0)
    neutral.write_text("\n".join(json.dumps({"text": text}) for text in plain))
    told = surgery_json("edit", "demo", *texts, "--neutral", neutral, "--out", edit)
    assert all(told["measured"]["by_behavior"][name] > 0.05 for name in BEHAVIORS)
    assert told["measured"]["divergence"] <= 0.02
    assert "predicted by the rule" in surgery("inspect", edit)
    for name in BEHAVIORS:
        found = surgery_json("evaluate", "demo", "--edit", edit, "--behavior", name, "--limit",
                             "100", "--samples", "1", "--out", tmp_path / name)  # fmt: skip
        (one,) = found["sets"]
        assert one["change"]["verdict"] == "less", name
        assert one["change"]["p_value"] < 0.01
        assert one["edited"]["rate"] < 0.75 * one["base"]["rate"]
        assert found["damage"]["neutral_text"]["divergence"] < 0.03


AT_ONCE = ("run", "--behavior", "toxicity", "--behavior", "negativity", "--at-once",
           "--samples", "1", "--prompt-count", "60", "--train-texts", "80")  # fmt: skip


def test_a_run_makes_one_edit_for_all_behaviors_and_measures_them(tmp_path: Path) -> None:
    out = tmp_path / "run"
    told = surgery_json(*AT_ONCE, "--out", out)
    assert told["at_once"]
    assert told["edits"] == [str(out / "edit.safetensors")]
    (stage,) = told["stages"]
    assert [one["name"] for one in stage["behaviors"]] == list(BEHAVIORS)
    for one in stage["behaviors"]:
        assert one["change"]["verdict"] == "less"
        assert one["edited"]["rate"] < 0.75 * one["base"]["rate"]
    assert stage["neutral_text"]["divergence"] < 0.03
    settings = load_edit(out / "edit.safetensors").provenance.settings
    assert settings["behaviors"]["negativity"] == {"direction": "away", "weight": 1.0}

    # An unfinished run goes on with the edit that it made, and tells the same.
    before = (out / "results.json").read_bytes()
    (out / "manifest.json").unlink()
    printed = surgery(*AT_ONCE, "--out", out)
    assert (out / "results.json").read_bytes() == before
    assert "one edit for toxicity and negativity" in printed
    assert "toxicity (away) and negativity (away)" in printed


def test_a_recipe_weighs_behaviors_against_each_other(tmp_path: Path) -> None:
    recipe = tmp_path / "both.yaml"
    recipe.write_text(
        "at_once: true\nsamples: 1\nprompt_count: 20\ntrain_texts: 30\nneutral_texts: 40\n"
        "strength: 1\n"
        "behaviors:\n  - {behavior: toxicity, weight: 3}\n  - negativity\n"
    )
    surgery("run", recipe, "--out", tmp_path / "run", expected_exit=SHOWN_OR_NOT)
    edit = load_edit(tmp_path / "run" / "edit.safetensors")
    assert edit.strength == pytest.approx(1)
    weights = {name: one["weight"] for name, one in edit.provenance.settings["behaviors"].items()}
    assert weights == {"toxicity": 3.0, "negativity": 1.0}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--behavior", "toxicity", "--at-once"), "at least two"),
        ((*AT_ONCE[1:], "--tune"), "omit tune"),
        ((*AT_ONCE[1:], "--rule", "paper"), "one behavior"),
    ],
)
def test_what_at_once_cannot_be_is_refused(
    arguments: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    said = surgery_fails("run", *arguments, "--out", tmp_path / "run", expected_exit=2)
    assert expected in said
    assert not (tmp_path / "run").exists()
