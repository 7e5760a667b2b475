"""`surgery tune` as a user runs it: budgets, interruptions, several processes, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from surgery import surgery_fails, surgery_json

pytestmark = pytest.mark.slow
# A shell's background jobs, and what they start, ignore Ctrl-C.
LISTENING = """\
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("modelsurgery", run_name="__main__")
"""
QUICK = ("--trials", "16", "--prompt-count", "40", "--samples", "1")


def started(*arguments: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", LISTENING, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )


def trials_of(journal: Path) -> int:
    """Trials that were told, as the journal has them: operation 6 sets a state, 1 is complete."""
    if not journal.is_file():
        return 0
    found = 0
    for line in journal.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a line that is being written
        found += entry.get("op_code") == 6 and entry.get("state") == 1
    return found


def test_a_search_is_told_whole(tmp_path: Path) -> None:
    limits = ("--max-divergence", "0.05", "--max-capability-drop", "3")
    told = surgery_json("tune", "embedded", "--behavior", "negativity", *limits, *QUICK,
                        "--out", tmp_path / "run")  # fmt: skip
    search, budget = told["search"], told["budget"]
    assert len(search["trials"]) + search["broken"] == search["trials_made"] == 16
    assert search["chosen"] in [one["trial"] for one in search["survivors"]]
    assert set(search["front"]) <= {one["number"] for one in search["trials"]}
    assert -1 <= search["rank_correlation"] <= 1
    assert budget["limits"]["divergence"]["limit"] == 0.05
    assert budget["is_met"]
    curve = told["dose_response"]
    strengths = [point["strength"] for point in curve]
    assert strengths == sorted(strengths)
    assert strengths[0] == 0
    (chosen,) = (point for point in curve if point["is_chosen"])
    assert chosen["strength"] == pytest.approx(told["edit"]["strength"])
    assert curve[0]["rate"]["rate"] == pytest.approx(search["base_rate"])
    for point in curve[1:]:
        assert point["divergence"]["low"] <= point["divergence"]["value"]
        assert point["rate"]["low"] <= point["rate"]["rate"] <= point["rate"]["high"]
    assert told["behavior"]["change"]["difference"] < -0.1


def test_a_killed_search_goes_on_and_more_trials_can_be_added(tmp_path: Path) -> None:
    run = tmp_path / "run"
    journal = run / "study.journal"
    arguments = ("tune", "embedded", *QUICK, "--out", run)
    process = started(*arguments)
    while trials_of(journal) < 8 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = trials_of(journal)
    assert kept >= 8
    assert not (run / "edit.safetensors").exists()

    told = surgery_json(*arguments)
    assert len(told["search"]["trials"]) == 16
    assert told["search"]["trials_made"] <= 16 - kept + told["search"]["broken"]

    more = surgery_json("tune", "embedded", "--trials", "24", "--prompt-count", "40", "--samples",
                        "1", "--study", journal, "--out", tmp_path / "more")  # fmt: skip
    assert more["search"]["trials_made"] == 8
    assert more["search"]["trials"][:16] == told["search"]["trials"]


def test_ctrl_c_keeps_the_trials_and_prints_the_line_to_go_on(tmp_path: Path) -> None:
    journal = tmp_path / "run" / "study.journal"
    process = started("tune", "embedded", *QUICK, "--out", tmp_path / "run")
    while trials_of(journal) < 8 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "to go on: surgery tune embedded" in errors.decode()
    assert trials_of(journal) >= 8


def test_two_processes_work_on_one_study(tmp_path: Path) -> None:
    shared = ("tune", "embedded", "--trials", "24", "--prompt-count", "40", "--samples", "1",
              "--study", tmp_path / "shared.journal")  # fmt: skip
    processes = [started(*shared, "--out", tmp_path / name) for name in ("one", "two")]
    errors = [process.communicate()[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    results = [
        json.loads((tmp_path / name / "results.json").read_text())["search"]
        for name in ("one", "two")
    ]
    assert all(24 <= len(one["trials"]) + one["broken"] <= 32 for one in results)
    assert all(one["trials_made"] < len(one["trials"]) for one in results)


def test_minutes_end_a_search(tmp_path: Path) -> None:
    told = surgery_json("tune", "embedded", "--minutes", "0.05", "--prompt-count", "40",
                        "--samples", "1", "--out", tmp_path / "run")  # fmt: skip
    assert 8 <= len(told["search"]["trials"]) < 200


def test_an_impossible_budget_ends_with_3_and_says_why(tmp_path: Path) -> None:
    run = tmp_path / "run"
    said = surgery_fails("tune", "embedded", "--max-divergence", "1e-9", *QUICK, "--out", run,
                         expected_exit=3)  # fmt: skip
    assert "no edit: the mildest of" in said
    assert "times the budget of divergence" in said
    assert not (run / "edit.safetensors").exists()


def test_wrong_input_is_one_line(tmp_path: Path) -> None:
    journal = tmp_path / "broken.journal"
    journal.write_text("not a journal\nat all\n")
    for arguments, code, message in (
        (("--max-perplexity", "much"), 2, "expected a rise like +5%"),
        (("--max-divergence", "-1"), 2, "max_divergence"),
        (("--trials", "0"), 2, "trials"),
        (("--minutes", "nan"), 2, "minutes"),
        (("--study", journal, *QUICK), 2, "not a journal of studies"),
        (("--judge", "purple"), 2, "purple"),
    ):
        said = surgery_fails("tune", "embedded", *arguments, "--out", tmp_path / "run",
                             expected_exit=code)  # fmt: skip
        assert message in said
        assert said.count("\n") <= 3
