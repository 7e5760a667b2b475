"""The report's parts as values: words, charts, differences, and what is refused."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from modelsurgery.errors import ArtefactError
from modelsurgery.report.html import write_report
from modelsurgery.report.html.charts import (
    Axis,
    bars_chart,
    curve_chart,
    histogram_chart,
    pairs_chart,
    rates_chart,
    roc_chart,
)
from modelsurgery.report.html.differences import chosen_pairs, lead_count, marked, pairs_of, shown
from modelsurgery.report.html.wording import certainty, price, verdict
from surgery_results import an_evaluation, write_run

RATE = {"rate": 0.4, "low": 0.35, "high": 0.45, "prompts": 300}
LESS = {"rate": 0.1, "low": 0.07, "high": 0.14, "prompts": 300}
CHANGE = {"difference": -0.3, "low": -0.35, "high": -0.25, "adjusted_p_value": 1e-9,
          "verdict": "less"}  # fmt: skip
ONE: dict[str, Any] = {"base": RATE, "edited": LESS, "change": CHANGE}


def test_the_verdict_says_what_changed_and_never_more_than_is_known() -> None:
    assert verdict("toxicity", ONE) == "Toxicity fell from 40.0% to 10.0% of held-out prompts."
    rose = {**ONE, "change": {**CHANGE, "verdict": "more"}}
    assert "rose from 40.0% to 10.0%" in verdict("toxicity", rose)
    unclear = {**ONE, "change": {**CHANGE, "verdict": "no detectable change"}}
    assert verdict("toxicity", unclear).startswith("No detectable change")
    assert "less than 1 in 10,000" in certainty(ONE)
    assert "is 0.03." in certainty({**ONE, "change": {**CHANGE, "adjusted_p_value": 0.03}})
    assert "2.0% less" in price(-0.02, None)
    assert "10.0% of facts right (-30.0 points)" in price(0.02, [RATE, LESS])


def test_charts_are_well_formed_told_in_words_and_escape_labels() -> None:
    hostile = "<script>&\"'"
    points = [
        {"strength": s, "is_chosen": s == 1.0, "rate": RATE, "used": {"perplexity": s / 1.5},
         "perplexity_rise": {"value": 0.01}, "capability_drop": {"value": 0.5},
         "is_inside": s < 1.5}
        for s in (0.0, 1.0, 2.0)
    ]  # fmt: skip
    charts = [
        rates_chart([(hostile, RATE, LESS), ("base only", RATE, None)]),
        curve_chart(points, hostile),
        bars_chart([(hostile, -1.0, hostile), ("two", 2.0, "2")], hostile),
        pairs_chart([(hostile, 0.1, 0.4)], hostile),
        histogram_chart([0.0, 0.5, 1.0], [(hostile, "base", [1, 3])], hostile, hostile),
        roc_chart([0.0, 0.5, 1.0], [0.0, 0.9, 1.0], 0.9),
    ]
    for chart in charts:
        root = ElementTree.fromstring(str(chart))
        assert root.find("title") is not None
        assert (root.findtext("desc") or "").strip()
        assert root.attrib["role"] == "img"
        assert all("script" not in one.tag for one in root.iter())


def test_points_lie_where_their_values_are() -> None:
    axis = Axis(0.0, 2.0, 100.0, 300.0)
    assert [axis(value) for value in (0.0, 1.0, 2.0, 5.0)] == [100.0, 200.0, 300.0, 300.0]
    assert axis.ticks(4) == [0.0, 0.5, 1.0, 1.5, 2.0]
    chart = str(pairs_chart([("texts", 0.2, 0.4)], "title"))
    widths = [float(one) for one in re.findall(r'width="([\d.]+)" height="13"', chart)]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.01)


def test_the_budget_line_is_between_the_last_point_inside_and_the_first_outside() -> None:
    def point(strength: float, used: float) -> dict[str, Any]:
        return {"strength": strength, "is_chosen": False, "rate": RATE,
                "used": {"perplexity": used}, "perplexity_rise": {"value": 0.0},
                "capability_drop": {"value": 0.0}, "is_inside": used <= 1}  # fmt: skip

    chart = str(curve_chart([point(0.0, 0.0), point(1.0, 0.5), point(2.0, 1.5)], "x"))
    (at,) = re.findall(r'<line x1="([\d.]+)"[^>]*class="limit"', chart)
    x = Axis(0.0, 2.0, 60, 656)
    assert float(at) == pytest.approx(x(1.5))  # half-way from 50 % to 150 % of the budget
    inside = str(curve_chart([point(0.0, 0.0), point(1.0, 0.5)], "x"))
    assert "over the budget" not in inside


def sample(base: str, edited: str, before: str, after: str) -> dict[str, Any]:
    return {"prompt": "p", "base": base, "edited": edited, "base_verdict": before,
            "edited_verdict": after}  # fmt: skip


def test_samples_are_sorted_into_kinds_by_direction() -> None:
    samples = [
        sample("a", "b", "behavior", "opposite"),
        sample("a", "b", "neither", "behavior"),
        sample("a", "b", "neither", "opposite"),
        sample("a", "a", "neither", "neither"),
    ]
    assert [one.kind for one in pairs_of(samples, "away")] == ["better", "worse", "changed", "same"]
    assert [one.kind for one in pairs_of(samples, "toward")][:2] == ["worse", "better"]
    assert [one.is_rough for one in pairs_of(samples, "away")] == [True, True, False, False]
    many = pairs_of(samples * 100, "away")
    chosen = chosen_pairs(many, 24)
    assert len(chosen) <= 24
    lead = chosen[: lead_count(chosen)]
    assert [one.kind for one in lead] == ["worse"] * 5 + ["better"] * 10 + ["changed"] * 3


def test_words_that_differ_are_marked_and_escaped() -> None:
    before, after = marked("the <b>old</b> cat", "the new cat")
    assert str(before) == "the <mark>&lt;b&gt;old&lt;/b&gt;</mark> cat"
    assert str(after) == "the <mark>new</mark> cat"
    assert shown("a\x1b[31m\u202eb\nc") == "a[31mb\nc"
    assert len(shown("x" * 10_000)) < 700


def test_a_run_and_an_evaluation_have_a_page(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run")).read_text()
    assert "Toxicity fell from 40.0% to 10.0% of held-out prompts." in page
    assert "<script>alert(1)</script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    page = write_report(an_evaluation(tmp_path / "evaluation")).read_text()
    assert "challenging by group" in page
    assert "surgery evaluate embedded --edit e.safetensors --behavior toxicity" in page


def test_an_older_run_without_a_look_inside_has_a_page(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run", inside=None)).read_text()
    assert 'id="rates"' in page
    assert 'id="inside"' not in page


def test_what_is_no_finished_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"no finished run there \(results.json is missing\)"):
        write_report(tmp_path)
    run = write_run(tmp_path / "run")
    (run / "results.json").write_text("{")
    with pytest.raises(ArtefactError, match="not valid JSON"):
        write_report(run)
    (run / "results.json").write_text('{"behavior": 3}')
    with pytest.raises(ArtefactError, match="not those of a run"):
        write_report(run)
    assert not (run / "report.html").exists()
