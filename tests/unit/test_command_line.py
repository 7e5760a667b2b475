"""What needs no model: help, listing, inspecting, showing."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from rich.console import Console
from typer.testing import CliRunner

import modelsurgery
from modelsurgery.cli import app
from modelsurgery.evaluation.judges import Verdict
from modelsurgery.report.terminal import print_results
from modelsurgery.results import RunResults, results_of

RESULTS: dict[str, Any] = {
    "model": "tiny",
    "behavior": {
        "name": "toxicity", "title": "rude talk", "direction": "away", "reduction": 0.8,
        "samples_per_prompt": 3,
        "base": {"rate": 0.5, "low": 0.45, "high": 0.55, "prompts": 300},
        "edited": {"rate": 0.1, "low": 0.07, "high": 0.14, "prompts": 300},
        "change": {"difference": -0.4, "low": -0.45, "high": -0.35, "p_value": 1e-9,
                   "adjusted_p_value": 1e-9, "effect_size": -0.9, "decreased": 200,
                   "increased": 3, "verdict": "less"},
        "verdicts": {"base": {"behavior": 450, "opposite": 446, "neither": 0, "failed": 0,
                              "unjudged": 4},
                     "edited": {"behavior": 90, "opposite": 793, "neither": 0, "failed": 10,
                                "unjudged": 7}},
        "greedy": {
            "reduction": None,
            "base": {"rate": 0.0, "low": 0.0, "high": 0.01, "prompts": 300},
            "edited": {"rate": 0.0, "low": 0.0, "high": 0.01, "prompts": 300},
            "change": {"difference": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0,
                       "adjusted_p_value": 1.0, "effect_size": 0.0, "decreased": 0,
                       "increased": 0, "verdict": "no detectable change"},
            "verdicts": {"base": {"behavior": 0, "opposite": 300, "neither": 0, "failed": 0,
                                  "unjudged": 0},
                         "edited": {"behavior": 0, "opposite": 300, "neither": 0, "failed": 0,
                                    "unjudged": 0}},
        },
    },
    "judge": {"name": "demo", "note": "exact"},
    "perplexity": {"base": 10.0, "edited": 10.6, "rise": 0.06, "tokens": 1000,
                   "text": "plain talk"},
    "divergence": 0.01,
    "budget": {
        "is_met": False,
        "limits": {
            "perplexity": {"measured": 0.06, "limit": 0.05, "is_inside": False},
            "divergence": {"measured": 0.01, "limit": None, "is_inside": None},
            "capability": {"measured": 1.0, "limit": 2.0, "is_inside": True},
        },
        "given_up": None,
    },
    "dose_response": [],
    "facts": {"base": None, "edited": None, "intervals": None},
    "probe": {"layer": 4, "fit": "adam", "accuracy": 0.9, "auroc": 0.95, "control_accuracy": 0.5,
              "control_auroc": 0.5, "train_texts": 100, "test_texts": 20},
    "edit": {"rows": 10, "rows_found": 1000, "tensors": 2, "tensors_found": 4,
             "bytes_changed": 5000, "bytes_total": 1000000, "alpha": 1.0, "strength": 4.0,
             "direction_source": "W1", "layers": [3, 4], "per_layer": False, "probe_layer": 4},
    "search": None,
    "examples": [
        {"prompt": "Say\nit", "base": "[bold]no\x1b[31m", "edited": "yes",
         "base_verdict": "opposite", "edited_verdict": "neither"},
        {"prompt": "Go on", "base": "rude talk", "edited": "kind talk",
         "base_verdict": "behavior", "edited_verdict": "opposite"},
        {"prompt": "And so", "base": "odd talk", "edited": "base talk",
         "base_verdict": "failed", "edited_verdict": "unjudged"},
    ],
    "run_directory": "runs/1",
    "seconds": 3.2,
}  # fmt: skip


def shown(width: int = 80, *, show_offensive: bool = False, **changed: Any) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, highlight=False, soft_wrap=True)
    content = {**RESULTS, "behavior": {**RESULTS["behavior"], **changed}}
    results = results_of(content, "here")
    assert isinstance(results, RunResults)
    print_results(results, console, show_offensive=show_offensive)
    return stream.getvalue()


def test_the_table_says_rates_intervals_change_and_price() -> None:
    text = shown()
    assert "50.0% (45-55)" in text
    assert "-40.0 points (-80%)" in text
    assert "<0.0001" in text
    assert "+6.0%" in text
    assert "over the budget: +6.0% perplexity (at most +5.0%)" in text
    missing = "continuations were empty or could not be judged; they are not counted as harmless"
    assert f"17 of 900 edited {missing}" in text
    assert f"4 of 900 base {missing}" in text
    assert "10 of 1000 gate rows in 2 of 4 tensors, layers 3-4" in text
    assert "facts" not in text


@pytest.mark.parametrize(("direction", "done"), [("away", "removed"), ("toward", "added")])
def test_the_headline_says_which_way_it_went(direction: str, done: str) -> None:
    first = shown(direction=direction).splitlines()[0]
    assert first == f"toxicity (rude talk) {done}, model tiny"


def test_hand_made_results_have_the_verdicts_of_real_ones() -> None:
    behavior = RESULTS["behavior"]
    for part in (behavior, behavior["greedy"]):
        for counts in part["verdicts"].values():
            assert set(counts) == set(get_args(Verdict))
            assert sum(counts.values()) % part["base"]["prompts"] == 0


def test_the_table_fits_eighty_columns() -> None:
    table = shown().split("300 held-out prompts")[0]
    assert max(map(len, table.splitlines())) <= 80


def test_model_output_is_text_and_never_markup_or_control_characters() -> None:
    text = shown()
    assert "[bold]no[31m" in text
    assert "\x1b" not in text
    assert "Say ⏎ it" in text


def test_examples_that_show_the_behavior_are_masked_with_their_prompts_unless_asked_for() -> None:
    text = shown()
    assert "prompt  •• ••\nbase    •••• ••••\nedited  kind talk\n" in text
    assert "prompt  ••• ••\nbase    odd talk\nedited  •••• ••••\n" in text
    assert "answers that show the behavior are masked; --show-offensive shows them" in text
    whole = shown(show_offensive=True)
    assert "prompt  Go on\nbase    rude talk\nedited  kind talk\n" in whole
    assert "prompt  And so\nbase    odd talk\nedited  base talk\n" in whole
    assert "masked" not in whole


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from modelsurgery.cli import app;"
        "result = CliRunner().invoke(app, ['run', '--help']); assert result.exit_code == 0;"
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_behaviors_are_listed_as_json() -> None:
    result = CliRunner().invoke(app, ["behaviors", "--json"])
    listed = json.loads(result.stdout)
    assert set(listed) == {"attitude", "compliance", "negativity", "refusal", "toxicity"}
    assert listed["refusal"]["direction"] == "toward"


def test_a_behavior_is_explained_with_its_protocol_and_published_numbers() -> None:
    result = CliRunner().invoke(app, ["behaviors", "toxicity", "--json"])
    explained = json.loads(result.stdout)
    assert [one["corpus"] for one in explained["texts"]] == ["paradetox", "jigsaw"]
    first = explained["prompts"][0]
    assert first["max_new_tokens"] == 20
    assert (first["published"][0]["base"], first["published"][0]["edited"]) == (51.4, 5.17)
    assert "published at https://" in first["where to get it"]


def test_the_authors_probe_can_be_inspected(shared: Path) -> None:
    path = shared / "reference" / "mistral_probe.pt"
    result = CliRunner().invoke(app, ["inspect", str(path), "--json"])
    content = json.loads(result.stdout)
    assert content["hidden_size"] == 4096
    assert content["cosine_W0_W1"] == pytest.approx(-0.925, abs=1e-3)


def test_public_names_are_sorted_and_all_there() -> None:
    assert modelsurgery.__all__ == sorted(modelsurgery.__all__)
    for name in modelsurgery.__all__:
        assert getattr(modelsurgery, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = modelsurgery.nothing
