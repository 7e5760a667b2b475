"""Texts, prompts and neutral text of one's own, on the command line."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from command_line import Made, Surgery, write_labeled
from tiny import WORDS, tiny_sentences


def test_the_probe_reads_replies(surgery: Surgery, tiny_llama: Path, tmp_path: Path) -> None:
    """The same questions stand there with both labels; only what was replied tells them apart."""
    rows = [
        {"prompt": f"{WORDS[n]} {WORDS[n + 1]}", "reply": WORDS[34 + label], "label": label}
        for n in range(30)
        for label in (0, 1)
    ]
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps(rows))
    out = tmp_path / "probe.safetensors"
    arguments = ("--texts", texts, "--fit", "logistic", "--layer", 1, "--out", out, "--json")
    done = surgery("probe", tiny_llama, *arguments)
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"] == 1.0


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Path]:
    """Labeled texts, prompts as a JSON list, neutral text as a table."""
    files = {
        "texts": write_labeled(tmp_path / "mine.jsonl"),
        "prompts": tmp_path / "prompts.JSON",
        "neutral": tmp_path / "neutral.csv",
    }
    prompts = [{"prompt": text} for text in tiny_sentences(8, seed=5)]
    files["prompts"].write_text(json.dumps(prompts))
    with files["neutral"].open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in tiny_sentences(9, seed=6))])
    return files


def results_of(surgery: Surgery, *arguments: object) -> tuple[dict[str, Any], Path]:
    done = surgery(*arguments, "--json")
    expected = 0 if arguments[0] == "evaluate" else 5  # no effect on a random model; all is written
    assert done.code == expected, done.stderr
    found = json.loads(done.stdout)
    return found, Path(found["run_directory"])


@pytest.mark.parametrize("spelling", ["run", "tune", "recipe"])
def test_a_behavior_is_not_forgotten_for_files_of_ones_own(
    surgery: Surgery, tiny_llama: Path, own: dict[str, Path], tmp_path: Path, spelling: str
) -> None:
    files = [part for name, path in own.items() for part in (f"--{name}", path)]
    run = ("--samples", 1, "--max-new-tokens", 8, "--out", tmp_path / "run")
    wide = ("--max-perplexity", "10000%", "--max-capability-drop", 100)
    given = ("--rows", 0.1, "--strength", 1)
    if spelling == "run":
        start: tuple[object, ...] = ("run", "--model", tiny_llama, "--behavior", "toxicity", *given)
    elif spelling == "tune":
        start = ("tune", tiny_llama, "--behavior", "toxicity", "--trials", 2, *wide)
    else:
        recipe = {"model": str(tiny_llama), "behavior": "toxicity", "rows": 0.1, "strength": 1.0}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        start = ("run", tmp_path / "recipe.yaml")
    results, directory = results_of(surgery, *start, *files, *run)
    assert results["behavior"]["name"] == "toxicity"
    assert results["judge"]["name"] == "ngrams:toxicity"
    assert results["perplexity"]["text"] == "neutral.csv"
    lines = (directory / "samples" / "greedy.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == tiny_sentences(8, seed=5)
    resolved = yaml.safe_load((directory / "recipe.resolved.yaml").read_text())
    assert resolved["behavior"] == "toxicity"


def test_texts_alone_are_a_behavior_of_their_own_and_a_repeated_run_says_so(
    surgery: Surgery, tiny_llama: Path, own: dict[str, Path], tmp_path: Path
) -> None:
    options = ("--texts", own["texts"], "--rows", 0.1, "--strength", 1, "--samples", 1)
    results, directory = results_of(
        surgery, "run", "--model", tiny_llama, *options, "--out", tmp_path / "run"
    )
    assert (results["behavior"]["name"], results["judge"]["name"]) == ("mine", "texts")
    repeat = ("run", directory / "recipe.resolved.yaml", "--out", tmp_path / "again")
    again, _ = results_of(surgery, *repeat)
    assert (again["behavior"]["name"], again["judge"]["name"]) == ("mine", "texts")


def test_an_evaluation_reads_the_sets_and_the_neutral_text_that_it_is_asked_for_and_no_more(
    surgery: Surgery, made: Made, own: dict[str, Path], shared: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "xstest").symlink_to(shared / "data" / "xstest")
    results, _ = results_of(
        surgery, "evaluate", made.model, "--edit", made.edit, "--behavior", "refusal",
        "--data", data, "--set", "xstest-safe", "--neutral", own["neutral"], "--limit", 6,
        "--max-new-tokens", 4, "--out", tmp_path / "run",
    )  # fmt: skip
    assert [one["name"] for one in results["sets"]] == ["xstest-safe"]
    assert results["sets"][0]["prompts"] == 6
    assert results["judges"][0]["name"] == "phrases"


def test_an_evaluation_of_the_demo_model_takes_prompts_of_ones_own(
    surgery: Surgery, own: dict[str, Path], tmp_path: Path
) -> None:
    results, directory = results_of(
        surgery, "evaluate", "demo", "--prompts", own["prompts"], "--neutral", own["neutral"],
        "--out", tmp_path / "run",
    )  # fmt: skip
    lines = (directory / "samples" / "prompts.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == tiny_sentences(8, seed=5)
    assert results["damage"]["neutral_text"]["text"] == "neutral.csv"
    assert results["judges"][0]["name"] == "demo"


def test_no_path_of_a_real_run_leaves_in_a_repository(
    surgery: Surgery, tiny_llama: Path, own: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(f"name: mine\ntexts: {own['texts']}\n")
    files = [part for name, path in own.items() for part in (f"--{name}", path)]
    _, directory = results_of(
        surgery, "run", "--model", tiny_llama, "--behavior", tmp_path / "mine.yaml", *files,
        "--data", tmp_path, "--study", tmp_path / "trials", "--rows", 0.1, "--strength", 1,
        "--samples", 1, "--out", tmp_path / "run",
    )  # fmt: skip
    assert str(tmp_path) in (directory / "recipe.resolved.yaml").read_text()
    for form in ("adapter", "merged"):
        out = tmp_path / form
        done = surgery(
            "export", tiny_llama, directory / "edit.safetensors", "--to", "hub", "--form", form,
            "--out", out,
        )  # fmt: skip
        assert done.code == 0, done.stderr
        for path in out.rglob("*"):
            if path.is_file():
                for local in (tmp_path, tiny_llama.parent):
                    assert str(local).encode() not in path.read_bytes(), path
        assert "behavior: mine.yaml" in (out / "README.md").read_text()
