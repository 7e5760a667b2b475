"""What `run`, `evaluate`, a sequence and Python say of one model and edit is one number."""

from pathlib import Path
from typing import Any

import pytest
from surgery import SHOWN_OR_NOT, surgery_json

pytestmark = pytest.mark.slow


# With the texts that the rule needs to be sure of what to change.
@pytest.mark.parametrize(("behavior", "texts"), [("toxicity", "40"), ("refusal", "150")])
def test_a_run_and_an_evaluation_of_its_edit_agree(
    tmp_path: Path, behavior: str, texts: str
) -> None:
    run = surgery_json("run", "--behavior", behavior, "--samples", "2", "--prompt-count", "24",
                       "--rows", "0.02", "--strength", "2", "--train-texts", texts, "--seed", "3",
                       "--out", tmp_path / "run", expected_exit=SHOWN_OR_NOT)  # fmt: skip
    edit = tmp_path / "run" / "edit.safetensors"
    options = ("evaluate", "demo", "--edit", edit, "--behavior", behavior, "--limit", "24")
    sampled = surgery_json(*options, "--samples", "2", "--out", tmp_path / "sampled")
    greedy = surgery_json(*options, "--out", tmp_path / "greedy")

    (one,) = sampled["sets"]
    keys = ("base", "edited", "change", "reduction", "verdicts")
    assert {key: one[key] for key in keys} == {key: run["behavior"][key] for key in keys}
    (other,) = greedy["sets"]
    assert {key: other[key] for key in keys} == run["behavior"]["greedy"]

    assert sampled["damage"] == greedy["damage"]
    neutral, perplexity = sampled["damage"]["neutral_text"], run["perplexity"]
    assert neutral["base_perplexity"] == perplexity["base"]
    assert neutral["edited_perplexity"] == perplexity["edited"]
    assert {key: neutral[key] for key in ("rise", "tokens", "text")} == {
        key: perplexity[key] for key in ("rise", "tokens", "text")
    }
    assert neutral["divergence"] == run["divergence"] > 0
    assert sampled["damage"]["facts"] == run["facts"]["intervals"]
    assert sampled["damage"]["own_answers"] == run["own_answers"]
    assert sampled["uncalled_for"] == run["uncalled_for"]
    assert (run["uncalled_for"] is None) == (behavior == "toxicity")

    limits = run["budget"]["limits"]
    lost = run["facts"]["base"] - run["facts"]["edited"]
    assert limits["capability"]["measured"] == pytest.approx(100 * lost)
    assert limits["perplexity"]["measured"] == perplexity["rise"]


def test_a_step_of_a_sequence_is_an_evaluation_of_its_edits(tmp_path: Path) -> None:
    told = surgery_json("run", "--behavior", "toxicity", "--behavior", "negativity",
                        "--rows", "0.02", "--strength", "2", "--samples", "1",
                        "--prompt-count", "24", "--train-texts", "40", "--out", tmp_path / "run",
                        expected_exit=SHOWN_OR_NOT)  # fmt: skip
    last = told["stages"][-1]
    edits = [part for edit in told["edits"] for part in ("--edit", edit)]
    for behavior, step in zip(("toxicity", "negativity"), last["behaviors"], strict=True):
        alone = surgery_json("evaluate", "demo", *edits, "--behavior", behavior, "--limit",
                             "24", "--samples", "1", "--out", tmp_path / behavior)  # fmt: skip
        (one,) = alone["sets"]
        assert shared(one, step) == step
        assert alone["damage"]["neutral_text"] == last["neutral_text"]


def shared(one: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    """What a step of a sequence says of a behavior, from an evaluation's set of prompts."""
    rates = ("base", "edited", "change", "reduction", "verdicts")
    return {"name": step["name"], "uncalled_for": None, **{key: one[key] for key in rates}}
