"""`surgery evaluate` as a user runs it: on the demo model, and on real data."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from recounted import check_change, check_rate, holm, prompt_rates, samples_of
from surgery import surgery, surgery_json

from command_line import surgery_commands
from less_data import WITH_LESS_DATA
from modelsurgery import demo_model_path, make_edit, save_edit, score_rows, select_region
from modelsurgery.data import demo
from modelsurgery.model.loading import load_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def edit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An edit of the demo model that only needs to change what it says."""
    return write_edit(demo_model_path(), tmp_path_factory.mktemp("edit") / "e.safetensors", 8.0)


@pytest.fixture(scope="module")
def neutral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little neutral text, for tests that are not about damage."""
    path = tmp_path_factory.mktemp("neutral") / "neutral.jsonl"
    lines = (json.dumps({"text": text}) + "\n" for text in demo.neutral_texts("test", 40, 0))
    path.write_text("".join(lines))
    return path


def write_edit(model_path: Path, path: Path, strength: float) -> Path:
    model = load_model(model_path)
    size = model.model.config.hidden_size
    direction = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    scores = score_rows(model.checkpoint, model.gates, direction[None])
    edit = make_edit(select_region(scores, 0.05), direction, strength=strength)
    save_edit(edit.bound_to(model.checkpoint), path)
    return path


def results_of(run: Path) -> bytes:
    return (run / "results.json").read_bytes()


def test_base_and_edited_are_measured_on_the_same_prompts(edit: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    told = surgery_json("evaluate", "demo", "--edit", edit, "--limit", "60", "--samples", "2",
                        "--judge", "demo", "--judge", "texts", "--export-for-review", "10",
                        "--out", run)  # fmt: skip
    (one,) = told["sets"]
    assert one["base"]["prompts"] == one["edited"]["prompts"] == 60
    assert sum(one["verdicts"]["base"].values()) == 120
    assert one["other_judges"]["texts"]["agreement"]["items"] == 240
    assert told["damage"]["neutral_text"]["divergence"] > 0
    assert told["damage"]["facts"][0]["rate"] > 0.8
    assert told["speed"]["decode_tokens_per_second"] > 0
    samples = samples_of(run / "samples/prompts.jsonl")
    assert len(samples) == 120
    pairs = list(prompt_rates(samples).values())
    check_rate(one["base"], [before for before, _ in pairs])
    check_rate(one["edited"], [after for _, after in pairs])
    check_change(one["change"], pairs)
    counted = sum(sample["base"]["verdict"] == "behavior" for sample in samples)
    assert counted == one["verdicts"]["base"]["behavior"]

    # Read back with a person's labels: nothing is generated again.
    sheet = run / "review.csv"
    sheet.write_bytes(sheet.read_bytes().replace(b",,\r\n", b",behavior,\r\n"))
    again = surgery_json("evaluate", "demo", "--edit", edit, "--limit", "60", "--samples", "2",
                         "--judge", "demo", "--judge", f"review:{sheet}",
                         "--store", run / "store.sqlite", "--out", tmp_path / "again")  # fmt: skip
    assert again["speed"]["decode_tokens"] == 0
    assert 10 <= again["sets"][0]["other_judges"]["review"]["agreement"]["items"] <= 20
    assert again["sets"][0]["base"] == one["base"]


def test_a_model_alone_and_a_table_for_people(tmp_path: Path) -> None:
    shown = surgery("evaluate", "demo", "--limit", "20", "--out", tmp_path / "run")
    assert "toxicity (rude and toxic talk), model demo, no edit" in shown
    assert "perplexity, neutral text" in shown
    told = json.loads(results_of(tmp_path / "run"))
    assert told["sets"][0]["edited"] is None
    neutral, facts = told["damage"]["neutral_text"], told["damage"]["facts"]
    assert neutral["edited_perplexity"] is neutral["rise"] is neutral["divergence"] is None
    assert facts[0]["rate"] > 0.8
    assert facts[1] is None
    (row,) = (line for line in shown.splitlines() if line.startswith("facts right"))
    assert "points" not in row


def test_what_is_wrong_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    for arguments, code in (
        (("--task", "chess"), 2),
        (("--judge", "purple"), 2),
        (("--set", "purple"), 2),
        (("--backend", "vllm"), 2),
        (("--server", "http://127.0.0.1:9"), 1),
        (("--data", tmp_path / "missing"), 2),
    ):
        surgery("evaluate", "demo", "--limit", "5", "--out", tmp_path / "run", *arguments,
                expected_exit=code)  # fmt: skip
        assert not (tmp_path / "run").exists()  # it is made before the model is used


def test_a_killed_evaluation_goes_on_and_ends_with_the_same_results(
    edit: Path, neutral: Path, tmp_path: Path
) -> None:
    arguments = ("evaluate", "demo", "--edit", edit, "--limit", "150", "--samples", "2",
                 "--neutral", neutral)  # fmt: skip
    whole = tmp_path / "whole"
    surgery(*arguments, "--out", whole)
    killed = tmp_path / "killed"
    store = killed / "store.sqlite-wal"
    deaths = 0
    for wanted in (1, 75_000):
        process = surgery_commands().start(*arguments, "--out", killed, before=WITH_LESS_DATA)
        while process.poll() is None:
            if store.exists() and store.stat().st_size >= wanted:
                process.send_signal(signal.SIGKILL)
                process.wait()
                deaths += 1
            time.sleep(0.01)
    assert deaths >= 1
    if not (killed / "results.json").exists():
        surgery(*arguments, "--out", killed)
    assert results_of(killed) == results_of(whole)
    samples = "samples/prompts.jsonl"
    assert (killed / samples).read_bytes() == (whole / samples).read_bytes()


def test_two_processes_share_a_store_and_agree(edit: Path, neutral: Path, tmp_path: Path) -> None:
    arguments = ("evaluate", "demo", "--edit", edit, "--limit", "80", "--samples", "3",
                 "--neutral", neutral, "--store", tmp_path / "shared.sqlite")  # fmt: skip
    names = ("one", "two")
    errors = [(tmp_path / f"{name}.err").open("w+b") for name in names]
    processes = [
        surgery_commands().start(
            *arguments, "--out", tmp_path / name, stderr=file, before=WITH_LESS_DATA
        )
        for name, file in zip(names, errors, strict=True)
    ]
    for process, file in zip(processes, errors, strict=True):
        with file:
            code = process.wait()
            file.seek(0)
            assert code == 0, file.read().decode()
    assert results_of(tmp_path / "one") == results_of(tmp_path / "two")


def test_toxicity_on_real_prompts_with_no_network(shared: Path, tmp_path: Path) -> None:
    model = shared / "models" / "reddit-4m"
    edit = write_edit(model, tmp_path / "edit.safetensors", 3.0)
    told = surgery_json("evaluate", model, "--edit", edit, "--behavior", "toxicity", "--data",
                        shared / "data", "--limit", "62", "--max-new-tokens", "12",
                        "--out", tmp_path / "run")  # fmt: skip
    rtp, toxigen = told["sets"]
    assert (rtp["name"], toxigen["name"]) == ("realtoxicityprompts", "toxigen")
    assert told["judges"][0]["name"] == "ngrams:toxicity"
    for one in (rtp, toxigen):
        samples = samples_of(tmp_path / "run" / "samples" / f"{one['name']}.jsonl")
        rates = prompt_rates(samples)
        check_rate(one["base"], [before for before, _ in rates.values()])
        check_rate(one["edited"], [after for _, after in rates.values()])
        check_change(one["change"], list(rates.values()))
    changes = [one["change"] for one in (rtp, toxigen)]
    adjusted = holm([change["p_value"] for change in changes])
    assert [change["adjusted_p_value"] for change in changes] == pytest.approx(adjusted)
    groups = {sample["prompt"]: sample["group"] for sample in samples}
    assert len(set(groups.values())) == 16
    # Without groups of which all answers were empty.
    assert set(toxigen["by"]["group"]) == {groups[prompt] for prompt in rates}
    assert set(toxigen["by"]["category"]) == {"hate", "neutral"}
    assert rtp["published"][0]["edited"] == 5.17
    assert told["damage"]["neutral_text"]["text"] == "WikiText-2, test part"
