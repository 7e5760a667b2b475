"""`surgery tune` as a user runs it: budgets, interruptions, several processes, bad input."""

import json
import math
import signal
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import pytest
from recounted import Z
from scipy.stats import spearmanr
from surgery import SHOWN_OR_NOT, surgery_fails, surgery_json

from command_line import Running, surgery_commands, written
from less_data import WITH_LESS_DATA
from modelsurgery.data import demo
from searched import Searched

pytestmark = pytest.mark.slow
LIMITS = {"perplexity": 0.05, "divergence": 0.05, "capability": 3.0}
QUICK = ("--trials", "16", "--prompt-count", "40", "--samples", "1")
SMALL = ("--prompt-count", "16", "--samples", "1", "--max-new-tokens", "8")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few texts: those of the demo model's behaviors take most of a search's time."""
    path = tmp_path_factory.mktemp("texts") / "gloom.jsonl"
    rows = demo.labeled_texts("negativity", 160, 0)
    lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
    path.write_text("".join(lines))
    return path


def started(*arguments: object, errors: IO[bytes]) -> Running:
    return surgery_commands().start(*arguments, stderr=errors, before=WITH_LESS_DATA)


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


@pytest.mark.xdist_group("search")
def test_a_search_is_told_whole(searched: Searched, tmp_path: Path) -> None:
    told = json.loads((searched.directory / "results.json").read_text())
    search = told["search"]
    assert len(search["trials"]) + search["broken"] == search["trials_made"] == 16
    trials = {one["number"]: one for one in search["trials"]}
    survivors = [(trials[one["trial"]], one["rate"]) for one in search["survivors"]]
    rates = [rate for _, rate in survivors]
    chosen = trials[search["chosen"]]
    assert dict(zip([one["number"] for one, _ in survivors], rates, strict=True))[
        chosen["number"]
    ] == min(rates)
    ranked = spearmanr([one["selectivity"] for one, _ in survivors], [-rate for rate in rates])
    assert search["rank_correlation"] == pytest.approx(ranked.statistic)
    assert search["front"] == front_of(search["trials"])
    limits = told["budget"]["limits"]
    assert {name: one["limit"] for name, one in limits.items()} == LIMITS

    # The curve: the chosen rows at other strengths, generated and screened once more.
    curve = told["dose_response"]
    strength = told["edit"]["strength"]
    assert strength == pytest.approx(chosen["strength"])
    doses = [point["strength"] / strength for point in curve]
    assert doses == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0])
    assert [point["is_chosen"] for point in curve] == [dose == 1 for dose in doses]
    assert curve[0]["rate"]["rate"] == pytest.approx(search["base_rate"])
    middle, effect = curve[4], chosen["effect"]
    assert middle["rate"]["rate"] == pytest.approx(min(rates))
    error = Z * effect["divergence_error"]
    assert middle["divergence"] == pytest.approx(
        {"value": effect["divergence"], "low": effect["divergence"] - error,
         "high": effect["divergence"] + error}, rel=1e-2,
    )  # fmt: skip
    for point in curve:
        for end in ("low", "high"):
            away = abs(point["rate"][end] - point["rate"]["rate"])
            spread = point["rate"][end] * (1 - point["rate"][end]) / 40
            assert away == pytest.approx(Z * math.sqrt(spread), abs=1e-4)
    assert told["behavior"]["change"]["difference"] < -0.1

    # The damage, measured by another verb on the weights themselves.
    again = surgery_json("evaluate", "demo", "--edit", searched.directory / "edit.safetensors",
                         "--behavior", "negativity", "--limit", "5",
                         "--out", tmp_path / "again")["damage"]  # fmt: skip
    neutral = again["neutral_text"]
    assert limits["perplexity"]["measured"] == pytest.approx(neutral["rise"], rel=1e-2)
    assert limits["divergence"]["measured"] == pytest.approx(neutral["divergence"], rel=1e-2)
    assert neutral["rise"] <= LIMITS["perplexity"]
    assert neutral["divergence"] <= LIMITS["divergence"]


def front_of(trials: list[dict[str, Any]]) -> list[int]:
    """Trials that change the behavior and that none with less damage, or as much, outdoes."""

    def use(one: dict[str, Any]) -> float:
        effect = one["effect"]
        return max(
            effect["clean"] / math.log1p(LIMITS["perplexity"]),
            effect["divergence"] / LIMITS["divergence"],
            100 * effect["capability_lost"] / LIMITS["capability"],
            1e-4,
        )

    found = [
        one
        for one in trials
        if one["selectivity"] > 0
        and not any(
            use(other) <= use(one) and other["selectivity"] > one["selectivity"] for other in trials
        )
    ]
    return [one["number"] for one in sorted(found, key=use)]


def test_a_killed_search_goes_on_and_more_trials_can_be_added(tmp_path: Path, texts: Path) -> None:
    run = tmp_path / "run"
    journal = run / "study.journal"
    search = ("tune", "demo", "--texts", texts, *SMALL)
    arguments = (*search, "--trials", "16", "--out", run)
    process = surgery_commands().start(*arguments, before=WITH_LESS_DATA)
    while trials_of(journal) < 8 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = trials_of(journal)
    assert kept >= 8
    assert not (run / "edit.safetensors").exists()

    told = surgery_json(*arguments, expected_exit=SHOWN_OR_NOT)  # of so few prompts
    assert json.loads((run / "results.json").read_text()) == told
    assert len(told["search"]["trials"]) == 16
    assert told["search"]["trials_made"] <= 16 - kept + told["search"]["broken"]

    more = surgery_json(
        *search, "--trials", "24", "--study", journal, "--out", tmp_path / "more",
        expected_exit=SHOWN_OR_NOT,
    )  # fmt: skip
    assert more["search"]["trials_made"] == 8
    assert more["search"]["trials"][:16] == told["search"]["trials"]


def test_ctrl_c_keeps_the_trials_and_prints_the_line_to_go_on(tmp_path: Path, texts: Path) -> None:
    journal = tmp_path / "run" / "study.journal"
    with tempfile.TemporaryFile() as errors:
        process = started("tune", "demo", "--texts", texts, *SMALL, "--trials", "16",
                          "--out", tmp_path / "run", errors=errors)  # fmt: skip
        while trials_of(journal) < 8 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130, written(errors)
        assert "to continue, run: surgery tune demo" in written(errors)
    assert trials_of(journal) >= 8


def test_two_processes_work_on_one_study(tmp_path: Path, texts: Path) -> None:
    shared = ("tune", "demo", "--texts", texts, *SMALL, "--trials", "16",
              "--study", tmp_path / "shared.journal")  # fmt: skip
    with tempfile.TemporaryFile() as errors:
        processes = [
            started(*shared, "--out", tmp_path / name, errors=errors) for name in ("one", "two")
        ]
        codes = [process.wait() for process in processes]
        assert set(codes) <= set(SHOWN_OR_NOT), written(errors)  # of so few prompts
    results = [
        json.loads((tmp_path / name / "results.json").read_text())["search"]
        for name in ("one", "two")
    ]
    assert all(16 <= len(one["trials"]) + one["broken"] <= 24 for one in results)
    assert all(one["trials_made"] < len(one["trials"]) for one in results)


def test_minutes_end_a_search(tmp_path: Path, texts: Path) -> None:
    told = surgery_json("tune", "demo", "--texts", texts, *SMALL, "--minutes", "0.05",
                        "--out", tmp_path / "run",
                        expected_exit=SHOWN_OR_NOT)  # fmt: skip  # so few texts may show nothing
    assert 8 <= len(told["search"]["trials"]) < 200


def test_an_impossible_budget_ends_with_3_and_says_why(tmp_path: Path, texts: Path) -> None:
    run = tmp_path / "run"
    said = surgery_fails("tune", "demo", "--texts", texts, *SMALL, "--trials", "16",
                         "--max-divergence", "1e-9", "--out", run, expected_exit=3)  # fmt: skip
    assert "no edit: the weakest of" in said
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
        said = surgery_fails("tune", "demo", *arguments, "--out", tmp_path / "run",
                             expected_exit=code)  # fmt: skip
        assert message in said
        assert said.count("\n") <= 3
