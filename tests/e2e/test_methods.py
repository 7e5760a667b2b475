"""`surgery rivals` as a user runs it, on the demo model."""

import json
from pathlib import Path

import pytest
from surgery import surgery, surgery_fails, surgery_json

from modelsurgery.results import read_results
from modelsurgery.results.rivals import RivalsResults

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("rivals")]
ASKED = ("rivals", "demo", "--behavior", "toxicity", "--method", "natural-gradient", "--method",
         "caa", "--method", "random", "--kl", "0.01", "--limit", "30", "--train-texts",
         "60")  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rivals") / "run"
    surgery(*ASKED, "--out", out, with_all_data=True)  # divergences of other text are compared
    return out


def test_all_methods_are_measured_alike(run: Path) -> None:
    results = read_results(run)
    assert isinstance(results, RivalsResults)
    assert len(results.rows) == 3
    rows = {(row.method, row.target): row for row in results.rows}
    for (_, target), row in rows.items():
        assert row.greedy.base.prompts == row.sampled.base.prompts == 30
        assert row.greedy.base == results.rows[0].greedy.base
        assert row.is_met
        assert target / 3 < row.divergence < 3 * target  # of other text than it was aimed at on
        assert row.cost.touched > 0
    ours, control = rows["natural-gradient", 0.01], rows["random", 0.01]
    assert ours.selectivity > 0.05 > control.selectivity
    assert ours.greedy.edited is not None
    assert control.greedy.edited is not None
    assert ours.greedy.edited.rate < control.greedy.edited.rate
    assert results.summary[-1].method == "random"
    rates = [one.greedy[1].rate + one.sampled[1].rate for one in results.summary]
    assert rates == sorted(rates)


def test_a_run_goes_on_with_the_rows_that_are_there(run: Path) -> None:
    before = json.loads((run / "results.json").read_text())
    (run / "manifest.json").unlink()
    (run / "rows" / "0-caa-0.01.json").unlink()
    written = (run / "rows" / "0-random-0.01.json").stat().st_mtime_ns
    after = surgery_json(*ASKED, "--out", run, with_all_data=True)
    assert (run / "rows" / "0-random-0.01.json").stat().st_mtime_ns == written
    for one in (before, after):
        for row in (*one["rows"], *one["summary"]):
            del row["cost"]  # differs from run to run
    assert after["rows"] == before["rows"]
    assert after["summary"] == before["summary"]


def test_what_is_printed_and_drawn(run: Path) -> None:
    surgery("report", run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count("<polyline") == 6
    for shown in ("contrastive activation addition", "arXiv 2312.06681", "control: random edit"):
        assert shown in page


def test_published_rows_stand_beside_those_of_the_same_method(run: Path) -> None:
    told = surgery("rivals", "--published", run)
    (line,) = (one for one in told.splitlines() if one.startswith("safe activation"))
    results = read_results(run)
    assert isinstance(results, RivalsResults)
    (mine,) = (one for one in results.summary if one.method == "caa")
    assert f"{mine.greedy[0].rate:.1%} → {mine.greedy[1].rate:.1%}" in line
    assert "here, KL 0.01" in told


def test_methods_are_listed_with_their_sources() -> None:
    told = surgery("rivals", "--list")
    assert "natural-gradient" in told
    assert "Rimsky" in told


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("--method", "nothing"), "method 'nothing'; expected one of natural-gradient"),
        (("--kl", "a"), "--kl 'a'; expected numbers"),
        (("--kl", "0"), "greater than 0"),
        (("--set", "nothing", "--method", "caa"), "prompt set 'nothing'; expected one of prompts"),
    ],
)
def test_bad_input_is_one_line(typed: tuple[str, ...], told: str, tmp_path: Path) -> None:
    said = surgery_fails("rivals", "demo", *typed, "--out", tmp_path / "run", expected_exit=2)
    assert told in said.splitlines()[-1]
    assert not (tmp_path / "run").exists()
