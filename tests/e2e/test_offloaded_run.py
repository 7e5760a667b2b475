"""A whole surgery of a model that does not fit in memory: the same as of one that does."""

import json
from pathlib import Path
from typing import Any

import pytest
from surgery import SHOWN_OR_NOT, surgery, surgery_fails, surgery_json

from modelsurgery import demo_model_path
from modelsurgery.files.atomic import sha256_file

pytest.importorskip("accelerate")
pytestmark = pytest.mark.slow

# The demo model takes 8.4 MB in f32; most of its blocks stay on disk.
ON_DISK = ("--device", "auto", "--max-memory", "cpu=6MB")
SMALL = {"strength": 1, "steps": 1, "rows": 0.05, "samples": 1, "prompt_count": 16,
         "train_texts": 60, "neutral_texts": 40}  # fmt: skip


def results(run: Path) -> dict[str, Any]:
    """Results of a run, without what differs from run to run."""
    found = json.loads((run / "results.json").read_text())
    differing = ("recipe", "run_directory", "seconds", "speed")
    return {key: value for key, value in found.items() if key not in differing}


def test_run_gives_the_same_edit_and_the_same_results(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(json.dumps(SMALL))  # JSON is YAML
    before = sha256_file(demo_model_path() / "model.safetensors")
    places = {"plain": (), "offloaded": ON_DISK}
    for name, place in places.items():
        surgery("run", recipe, "--out", tmp_path / name, *place, expected_exit=SHOWN_OR_NOT)
    plain, offloaded = (tmp_path / name for name in places)
    for name in ("edit.safetensors", "probe.safetensors"):
        assert sha256_file(plain / name) == sha256_file(offloaded / name)
    assert results(plain) == results(offloaded)
    assert sha256_file(demo_model_path() / "model.safetensors") == before

    edit = plain / "edit.safetensors"
    for verb in (
        ("evaluate", "demo", "--edit", edit, "--behavior", "toxicity", "--limit", "9"),
        ("inspect", edit, "--model", "demo"),
    ):
        answers = []
        for name, place in places.items():
            out = ("--out", tmp_path / f"e-{name}") if verb[0] == "evaluate" else ()
            answers.append(surgery_json(*verb, *out, *place))
        for answer in answers:
            for key in ("speed", "run_directory"):
                answer.pop(key, None)
        assert answers[0] == answers[1]


def test_wrong_uses_are_one_line(tmp_path: Path) -> None:
    for words, line in (
        (("--max-memory", "1GB"), "--max-memory is for a model on several devices"),
        (("--device", "auto", "--max-memory", "much"), "expected a size for each device"),
        (("--device", "everywhere"), "expected cpu, cuda, cuda:N or auto"),
    ):
        said = surgery_fails("run", "--out", tmp_path / "run", *words, expected_exit=2)
        assert line in said
        assert len(said.strip().splitlines()) == 1
        assert not (tmp_path / "run").exists()
