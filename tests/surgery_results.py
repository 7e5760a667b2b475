"""Directories of finished runs, written by hand: what reports read."""

import json
from pathlib import Path
from typing import Any

import yaml

RATE = {"rate": 0.4, "low": 0.35, "high": 0.45, "prompts": 300}
LESS = {"rate": 0.1, "low": 0.07, "high": 0.14, "prompts": 300}
CHANGE = {"difference": -0.3, "low": -0.35, "high": -0.25, "p_value": 1e-9,
          "adjusted_p_value": 1e-9, "effect_size": -0.7, "decreased": 95, "increased": 5,
          "verdict": "less"}  # fmt: skip
VERDICTS: dict[str, int] = {"behavior": 3, "opposite": 5, "neither": 1, "failed": 1, "unjudged": 0}
COMPARED: dict[str, Any] = {"base": RATE, "edited": LESS, "change": CHANGE, "reduction": 0.75}
MEASURED: dict[str, Any] = {**COMPARED, "verdicts": {"base": VERDICTS, "edited": VERDICTS}}
QUALITY = {"mean_tokens": 9.0, "repetition": 0.1, "unfinished": 0.2, "failed": 0.0}
AGREED = {"share": 0.9, "items": 8}
TOKENS = {"toward": [["·cloud", 3.0, True]], "away": [["·kind", -2.0, False]]}
INSIDE: dict[str, Any] = {
    "rows_by_layer": [{"layer": 1, "chosen": 3, "rows": 48}, {"layer": 2, "chosen": 0, "rows": 48}],
    "cosines": {"edges": [-1.0, 0.0, 1.0], "all": [5, 5], "chosen": [3, 0], "random": [1, 2]},
    "activations": [{"texts": "neutral text", "base": 0.1, "edited": 0.2, "tokens": 9,
                     "counts": {"edges": [0, 1, 2], "base": [3, 1], "edited": [1, 3]}}],
    "similarity": [{"texts": "neutral text", "cosine": -0.03}],
    "roc": {"false_positive_rate": [0, 1], "true_positive_rate": [0, 1], "auroc": 0.5},
    "probe_loss": [{"texts": "neutral text", "base": 0.2, "edited": 0.3}],
    "tokens": {"direction": TOKENS},
    "neurons": [
        {"layer": 1, "row": 7, "cosine": -0.3, "gate_reads": TOKENS, "gate_reads_edited": TOKENS,
         "writes": None, "mean_output": {"base": 0.1, "edited": 0.4}}
    ],
}  # fmt: skip
FIT: dict[str, Any] = {  # of an edit toward a behavior
    "predicted": {"gain": -0.5, "divergence": 0.001},
    "measured": {"gain": -0.2, "divergence": 0.004, "behavior": -0.1, "opposite": 0.1},
    "by_layer": [
        {"layer": 1, "rows": 2, "gain": -0.4, "divergence": 0.0008, "share": 0.8},
        {"layer": 2, "rows": 1, "gain": -0.1, "divergence": 0.0002, "share": 0.2},
    ],
    "rows": [
        {"layer": 1, "branch": "mlp", "expert": None, "row": 7, "coefficients": [-0.25, 0.125],
         "gain": -0.3, "divergence": 0.0006, "share": 0.6},
        {"layer": 1, "branch": "experts", "expert": 3, "row": 2, "coefficients": [-0.5],
         "gain": -0.1, "divergence": 0.0, "share": 0.2},
    ],
}  # fmt: skip


def write_run(
    directory: Path,
    inside: dict[str, Any] | None = INSIDE,
    fit: dict[str, Any] | None = None,
) -> Path:
    """The directory of a run on the demo model."""
    results = {
        "model": "demo",
        "behavior": {"name": "toxicity", "title": "rude talk", "direction": "away",
                     "samples_per_prompt": 1, **MEASURED, "greedy": MEASURED},
        "judge": {"name": "demo", "note": "exact"},
        "perplexity": {"base": 3.0, "edited": 3.1, "rise": 0.03, "tokens": 99, "text": "talk"},
        "divergence": 0.02,
        "budget": {"is_met": True, "given_up": None, "limits": {
            "perplexity": {"measured": 0.03, "limit": 0.05, "is_inside": True}}},
        "facts": {"base": 0.9, "edited": 0.9, "intervals": [RATE, RATE]},
        "probe": {"layer": 2, "fit": "adam", "accuracy": 0.9, "auroc": 0.95,
                  "control_accuracy": 0.5, "control_auroc": 0.5, "train_texts": 100,
                  "test_texts": 40},
        "edit": {"rows": 3, "rows_found": 96, "tensors": 1, "tensors_found": 2, "bytes_changed": 9,
                 "bytes_total": 99, "alpha": 0.1, "strength": 2.0,
                 "direction_source": "mean-difference", "layers": None, "per_layer": False},
        "dose_response": [],
        "examples": [],
        "run_directory": "runs/1",
        "seconds": 3.2,
        "inside": inside,
        "fit": fit,
    }  # fmt: skip
    lines = [
        {"prompt": "<script>alert(1)</script>", "base": "rough", "edited": "kind",
         "base_verdict": "behavior", "edited_verdict": "opposite", "seed": 0}
    ]  # fmt: skip
    return _written(directory, results, {"model": "demo"}, "sampled", lines)


def an_evaluation(directory: Path) -> Path:
    """The directory of an evaluation with one prompt set of two groups."""
    results = {
        "model": {"name": "demo", "fingerprint": "0"},
        "edits": {"e.safetensors": "0" * 64},
        "behavior": {"name": "toxicity", "title": "rude talk", "shows": "it is rude",
                     "opposite": "it is not"},
        "judges": [{"name": "ngrams", "note": "calibrated"}],
        "sets": [{"name": "challenging", "title": "prompts", "prompts": 300, "decoding": [],
                  **MEASURED, "by": {"group": {"one": COMPARED}},
                  "other_judges": {"phrases": {**COMPARED, "agreement": AGREED}},
                  "published": [{"model": "a large one", "base": 51.4, "edited": 5.17}],
                  "quality": {"base": QUALITY, "edited": {**QUALITY, "failed": 0.5}}}],
        "damage": {
            "facts": None,
            "neutral_text": {"base_perplexity": 3.0, "edited_perplexity": 3.1, "rise": 0.03,
                             "divergence": 0.01, "tokens": 99, "text": "talk"},
            "tasks": {"gsm8k": {"metric": "exact match", "shots": 8, "base": RATE, "edited": LESS}},
        },
        "seed": 0,
    }  # fmt: skip
    lines = [
        {"prompt": "p", "base": {"text": "a", "verdict": "behavior"},
         "edited": {"text": "b", "verdict": "neither"}}
    ]  # fmt: skip
    return _written(directory, results, {"model": "demo"}, "challenging", lines)


def _written(
    directory: Path,
    results: dict[str, Any],
    recipe: dict[str, Any],
    samples: str,
    lines: list[dict[str, Any]],
) -> Path:
    (directory / "samples").mkdir(parents=True)
    (directory / "results.json").write_text(json.dumps(results))
    (directory / "recipe.resolved.yaml").write_text(yaml.safe_dump(recipe))
    manifest = {"provenance": {"versions": {"python": "3.11"}}, "sha256": {"results.json": "0"}}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    content = "".join(json.dumps(one) + "\n" for one in lines)
    (directory / "samples" / f"{samples}.jsonl").write_text(content)
    return directory
