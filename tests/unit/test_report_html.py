"""The report's parts as values: words, charts, differences, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from modelsurgery.errors import ArtifactError
from modelsurgery.report.comparing import Pair, read_pairs
from modelsurgery.report.html import write_report
from modelsurgery.report.html.charts import (
    bars_chart,
    curve_chart,
    explained_chart,
    histogram_chart,
    pairs_chart,
    panels_chart,
    rates_chart,
    rise_chart,
    roc_chart,
)
from modelsurgery.report.html.commands import adapter_command, delivery_commands
from modelsurgery.report.html.differences import chosen_pairs, marked, shown
from modelsurgery.report.html.drawing import Axis, tick_per_cent
from modelsurgery.report.html.wording import certainty, price, signed, tone, verdict, wrong_way
from modelsurgery.results import Compared, Rate
from modelsurgery.results.runs import Point
from surgery_results import CHANGE, COMPARED, FIT, INSIDE, LESS, RATE, an_evaluation, write_run

ONE = Compared.model_validate(COMPARED)


def changed(**what: Any) -> Compared:
    """The comparison with another change."""
    return Compared.model_validate({**COMPARED, "change": {**CHANGE, **what}})


def test_the_verdict_says_what_changed_and_never_more_than_is_known() -> None:
    assert verdict("toxicity", ONE) == "Toxicity fell from 40.0% to 10.0% of held-out prompts."
    assert "rose from 40.0% to 10.0%" in verdict("toxicity", changed(verdict="more"))
    unclear = changed(verdict="no detectable change")
    assert verdict("toxicity", unclear).startswith("No detectable change")
    assert "less than once in 10,000 times" in certainty(ONE)
    assert "−30.0 points (95% interval −35.0 to −25.0), on 300 held-out prompts" in certainty(ONE)
    assert "with a probability of 0.03." in certainty(changed(adjusted_p_value=0.03))
    assert "2.0% less" in price(-0.02, None)
    assert "10.0% of facts right (−30.0 points)" in price(0.02, [Rate(**RATE), Rate(**LESS)])


def point(strength: float, used: float, *, is_chosen: bool = False) -> Point:
    """A point of a curve that uses a share of the budget."""
    zero = {"value": 0.01, "low": 0.0, "high": 0.02}
    return Point.model_validate(
        {"strength": strength, "is_chosen": is_chosen, "rate": RATE, "selectivity": 0.1,
         "perplexity_rise": zero, "divergence": zero, "capability_drop": zero,
         "used": {"perplexity": used}, "is_inside": used <= 1}
    )  # fmt: skip


RISE = {
    "texts": "one",
    "points": [
        {"share": 0.5, "predicted": 0.05, "measured": -0.02},
        {"share": 1.0, "predicted": 0.1, "measured": 0.3},
    ],
}


def test_charts_are_well_formed_told_in_words_and_escape_labels() -> None:
    hostile = "<script>&\"'"
    points = [point(s, s / 1.5, is_chosen=s == 1.0) for s in (0.0, 1.0, 2.0)]
    alone = Compared.model_validate({**dict.fromkeys(COMPARED), "base": RATE})
    charts = [
        rates_chart([(hostile, ONE), ("base only", alone)]),
        curve_chart(points, hostile),
        bars_chart([(hostile, -1.0, hostile), ("two", 2.0, "2")], hostile),
        pairs_chart([(hostile, 0.1, 0.4)], hostile),
        histogram_chart([0.0, 0.5, 1.0], [(hostile, "base", [1, 3])], hostile, hostile),
        roc_chart([0.0, 0.5, 1.0], [0.0, 0.9, 1.0], 0.9),
        explained_chart([(hostile, 0.5, hostile)], [(hostile, 0.5, -0.1), ("two", 0.1, None)]),
        rise_chart([{**RISE, "texts": hostile}, RISE]),
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
    chart = str(curve_chart([point(0.0, 0.0), point(1.0, 0.5), point(2.0, 1.5)], "x"))
    _, at = re.findall(r'<line x1="([\d.]+)"[^>]*class="limit"', chart)
    x = Axis(0.0, 2.0, 60, 656)
    assert float(at) == pytest.approx(x(1.5))  # half-way from 50 % to 150 % of the budget
    # What leaves the chart is cut where it leaves it: 4 is half-way from 1 to 7.
    far = str(curve_chart([point(0.0, 0.0), point(1.0, 1.0), point(2.0, 7.0)], "x"))
    (line,) = re.findall(r'<polyline points="([^"]*)" class="curve damage"', far)
    assert float(line.split()[-1].split(",")[0]) == pytest.approx(x(1.5))
    inside = str(curve_chart([point(0.0, 0.0), point(1.0, 0.5)], "x"))
    assert "over the budget" not in inside


@pytest.mark.parametrize(
    ("told", "direction", "expected"),
    [("less", "away", "good"), ("more", "away", "bad"), ("more", "toward", "good"),
     ("less", "toward", "bad"), ("no detectable change", "away", "unclear")],
)  # fmt: skip
def test_a_change_is_good_only_if_it_is_what_was_wished_for(
    told: str, direction: str, expected: str
) -> None:
    assert tone(told, direction) == expected
    assert (wrong_way(told, direction) is not None) == (expected == "bad")
    assert tone(told, direction, is_affordable=False) != "good"


def test_minus_signs_are_as_wide_as_plus_signs() -> None:
    assert [signed(-1.54), signed(2), signed(-0.1234, 2)] == ["−1.5", "+2.0", "−0.12"]


def test_panels_have_the_same_axes_and_tell_their_means() -> None:
    panels = [("one", [0, 1, 2], [1, 1], [0, 4]), ("two", [0, 2, 4], [3, 1], [1, 0])]
    root = ElementTree.fromstring(str(panels_chart(panels, "title", "neurons")))
    means = (("one, base", 1.0), ("one, edited", 1.5), ("two, base", 1.5), ("two, edited", 1.0))
    told = "; ".join(f"{name}: {mean} on average" for name, mean in means)
    assert root.findtext("desc") == told
    areas = [one.attrib["points"].split() for one in root.iter("polygon")]
    right = [max(float(point.split(",")[0]) for point in points) for points in areas]
    assert right[0] == pytest.approx((60 + right[2]) / 2)  # 2 is half-way to 4


def test_rises_of_the_loss_are_drawn_as_predicted_and_as_measured() -> None:
    root = ElementTree.fromstring(str(rise_chart([RISE, {**RISE, "texts": "two"}])))
    lines = [one for one in root.iter() if one.tag.endswith("polyline")]
    kinds = ["edited expected", "edited", "damage expected", "damage"]
    assert [one.attrib["class"] for one in lines] == [f"curve {kind}" for kind in kinds]
    predicted, measured = (
        [float(point.split(",")[1]) for point in one.attrib["points"].split()] for one in lines[:2]
    )
    zero = predicted[0]
    assert measured[0] == zero
    assert zero - predicted[-1] == pytest.approx(2 * (zero - predicted[1]), abs=0.2)
    assert zero - measured[-1] == pytest.approx(3 * (zero - predicted[-1]), abs=0.3)
    assert measured[1] > zero  # the wrong way is below
    told = root.findtext("desc") or ""
    assert "one at 100% of the strength: predicted +0.100, measured +0.300 nats" in told


def test_predicted_gains_are_as_long_as_their_values_and_each_pair_has_a_scale() -> None:
    layers = [("layer 1", 0.4, "0.4, 2 rows"), ("layer 2", 0.1, "0.1, 1 row")]
    chart = str(explained_chart(layers, [("gain", 0.5, -0.25), ("divergence", 0.001, 0.004)]))
    bars = re.findall(r'<rect x="([\d.]+)"[^>]*width="([\d.]+)"[^>]*class="fill-(\w+)"', chart)
    widths = [float(width) for _, width, _ in bars]
    assert [kind for *_, kind in bars] == ["other", "other", "other", "edited", "other", "edited"]
    assert widths[0] == pytest.approx(4 * widths[1], abs=0.2)
    assert widths[2] == pytest.approx(2 * widths[3], abs=0.2)
    # The wrong way is on the other side of zero.
    assert float(bars[3][0]) + widths[3] == pytest.approx(float(bars[2][0]), abs=0.2)
    assert widths[5] == pytest.approx(4 * widths[4], abs=0.2)
    root = ElementTree.fromstring(chart)
    told = root.findtext("desc") or ""
    assert "layer 1 0.4, 2 rows" in told
    assert "Divergence, nats per token: predicted 0.001, measured 0.004" in told
    alone = str(explained_chart(layers, [("gain", 0.5, None)]))
    assert "measured" not in alone


def test_a_page_explains_an_edit_by_its_rule_the_way_it_goes(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run", fit=FIT)).read_text()
    assert 'id="explained"' in page
    assert "layer 1: 0.4, 2 rows" in page
    assert "layer 2: 0.1, 1 row<" in page
    _, _, table = page.partition('id="explained-rows"')
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", table.partition("</table>")[0])
    assert cells[:6] == ["layer, row", "coefficient", "gain", "price", "gain / price",
                         "share of gain"]  # fmt: skip
    assert cells[6:12] == ["1, 7", "-0.25, +0.125", "0.3", "0.0006", "500", "60.0%"]
    assert cells[12:] == ["1 experts 3, 2", "-0.5", "0.1", "0", "", "20.0%"]
    # Of a rule that predicts nothing, of the paper's, and of earlier versions.
    nothing = dict.fromkeys(FIT)
    before = {key: FIT[key] for key in ("predicted", "measured", "by_layer")}
    for number, (fit, has_figure) in enumerate(((nothing, False), (None, False), (before, True))):
        other = write_report(write_run(tmp_path / str(number), fit=fit)).read_text()
        assert ('id="explained"' in other) == has_figure
        assert "explained-rows" not in other


def of_kind(kind: str) -> Pair:
    return Pair("sampled", "p", 0, "a", "b", "behavior", "opposite", kind)  # type: ignore[arg-type]


def test_what_is_seen_first_shows_every_kind_and_what_got_worse_before() -> None:
    many = [of_kind(kind) for kind in ("same", "changed", "better", "worse") for _ in range(100)]
    lead, rest = chosen_pairs(many, 40)
    assert len(lead + rest) <= 40
    assert [one.change for one in lead] == ["worse"] * 5 + ["better"] * 10 + ["changed"] * 3
    assert chosen_pairs([of_kind("better")], 40) == ([of_kind("better")], [])


def test_words_that_differ_are_marked_and_escaped() -> None:
    before, after = marked("the <b>old</b> cat", "the new cat")
    assert str(before) == "the <mark>&lt;b&gt;old&lt;/b&gt;</mark> cat"
    assert str(after) == "the <mark>new</mark> cat"
    assert shown("a\x1b[31m\u202eb\nc") == "a[31mb\nc"
    assert len(shown("x" * 10_000)) < 700


def test_a_run_has_a_page(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run")).read_text()
    assert "Toxicity fell from 40.0% to 10.0% of held-out prompts." in page
    assert "<script>alert(1)</script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "1 of 10 edited continuations were empty" in page
    for name in ("rates", "layers", "cosines", "activations", "counts", "similarity", "roc"):
        assert f'id="{name}"' in page


def test_an_evaluation_has_a_page_with_all_that_it_measured(tmp_path: Path) -> None:
    page = write_report(an_evaluation(tmp_path / "evaluation")).read_text()
    assert "challenging by group" in page
    assert "surgery evaluate demo --edit e.safetensors --behavior toxicity" in page
    for told in ("as phrases judges", "published for a large one", "challenging: empty answers",
                 "gsm8k (exact match, 8-shot)", "agree on 90.0% of 8 answers"):  # fmt: skip
        assert told in page, told


def test_an_evaluation_without_an_edit_has_a_page(tmp_path: Path) -> None:
    evaluation = an_evaluation(tmp_path / "evaluation")
    results = json.loads((evaluation / "results.json").read_text())
    (only,) = results["sets"]
    only.update(edited=None, change=None, by={}, other_judges={}, quality=only["quality"]["base"])
    only["verdicts"]["edited"] = None
    results.update(edits={}, sets=[only])
    results["damage"].update(facts=[RATE, RATE], tasks={})
    results["damage"]["neutral_text"].update(edited_perplexity=None, divergence=None, rise=None)
    (evaluation / "results.json").write_text(json.dumps(results))
    page = write_report(evaluation).read_text()
    assert "Toxicity shows in 40.0% of held-out prompts." in page
    assert 'id="answers"' not in page
    assert page.count("40.0% (35 to 45)") == 2  # the rate and the facts, of the base model alone


def test_better_and_worse_are_told_by_the_wish_and_not_by_the_result(tmp_path: Path) -> None:
    evaluation = an_evaluation(tmp_path / "evaluation")
    results = json.loads((evaluation / "results.json").read_text())
    change = {**CHANGE, "difference": 0.3, "low": 0.25, "high": 0.35, "verdict": "more"}
    results["sets"][0].update(base=LESS, edited=RATE, change=change)
    (evaluation / "results.json").write_text(json.dumps(results))
    line = {"prompt": "p", "base": {"text": "a", "verdict": "opposite"},
            "edited": {"text": "b", "verdict": "behavior"}}  # fmt: skip
    (evaluation / "samples" / "challenging.jsonl").write_text(json.dumps(line) + "\n")
    page = write_report(evaluation).read_text()
    assert '<header class="bad">' in page
    assert "This is the wrong direction" in page
    assert 'data-kind="worse"' in page.partition('<div class="pairs">')[2]


def test_an_answer_that_became_empty_is_shown_as_worse(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    line = {"prompt": "p", "base": "kind", "edited": "", "base_verdict": "opposite",
            "edited_verdict": "failed", "seed": 0}  # fmt: skip
    (run / "samples" / "sampled.jsonl").write_text(json.dumps(line) + "\n")
    assert [one.change for one in read_pairs(run).pairs] == ["worse"]
    page = write_report(run).read_text()
    assert "(nothing)" in page
    assert "1 got worse" in page


def test_what_is_missing_inside_is_said(tmp_path: Path) -> None:
    inside = {**INSIDE, "activations": None, "missing": {"activations": "they are in experts"}}
    page = write_report(write_run(tmp_path / "run", inside=inside)).read_text()
    assert "Not shown, activations: they are in experts." in page
    assert 'id="activations"' not in page


def test_an_older_run_without_a_look_inside_has_a_page(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run", inside=None)).read_text()
    assert 'id="rates"' in page
    assert 'id="inside"' not in page


def test_what_is_no_finished_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no finished run found \(results.json is missing\)"):
        write_report(tmp_path)
    run = write_run(tmp_path / "run")
    (run / "results.json").write_text("{")
    with pytest.raises(ArtifactError, match="not valid JSON"):
        write_report(run)
    (run / "results.json").write_text('{"behavior": 3}')
    with pytest.raises(ArtifactError, match="not those of a run"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_what_strangers_wrote_has_no_control_characters(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    results = json.loads((run / "results.json").read_text())
    results["model"] = "name\x1b[31m\u202e\x00"
    results["inside"]["similarity"][0]["texts"] = "texts\u2066\x07"
    (run / "results.json").write_text(json.dumps(results))
    page = write_report(run).read_text()
    assert not set("\x1b\u202e\x00\u2066\x07") & set(page)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("samples/sampled.jsonl", "{\n", "not a sample"),
        ("manifest.json", "[]", "expected a JSON object"),
        ("manifest.json", "{}", "not those of a run"),
        ("recipe.resolved.yaml", "a: [", "not valid YAML"),
        ("results.json", '{"stages": []}', "a run with several behaviors"),
    ],
)
def test_damaged_files_are_refused_in_one_line(
    tmp_path: Path, name: str, content: str, says: str
) -> None:
    run = write_run(tmp_path / "run")
    (run / name).write_text(content)
    with pytest.raises(ArtifactError, match=says) as caught:
        write_report(run)
    assert "\n" not in str(caught.value)


def test_the_report_can_be_written_elsewhere(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert write_report(run, tmp_path / "page.html") == tmp_path / "page.html"
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert not (run / "report.html").exists()


def test_ticks_are_what_they_say() -> None:
    told = [tick_per_cent(tick) for tick in Axis(0.0, 0.11, 0, 100).ticks(4)]
    assert told == ["0%", "2.5%", "5%", "7.5%", "10%"]
    assert tick_per_cent(0.07) == "7%"


def test_commands_of_a_page_fit_a_directory_and_a_gguf_file() -> None:
    assert delivery_commands("my model", ["e"]) == (
        ("apply to a copy", "surgery apply 'my model' e --out edited"),
        ("undo", "surgery undo edited"),
    )
    assert adapter_command("m", ["e"]) == (
        "adapter for PEFT", "surgery export m e --to peft --out adapter",
    )  # fmt: skip
    assert delivery_commands("m.gguf", ["e", "f"]) == (
        ("apply to a copy", "surgery apply m.gguf e f --out edited.gguf"),
        ("undo", "surgery undo edited.gguf"),
    )
    assert adapter_command("m.gguf", ["e"]) == (
        "adapter for llama.cpp", "surgery export m.gguf e --to gguf --out adapter.gguf",
    )  # fmt: skip
