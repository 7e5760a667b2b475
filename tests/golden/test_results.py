"""Results that earlier versions wrote: read, shown and drawn like today's.

`results/` holds runs of format 1, made by the version before there was a number in the files; texts
and tokens were replaced by `word`, and lists were shortened. `run-2` and the like are the same as
the last version with format 2 wrote them, the run with a rule of the paper's.
"""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from modelsurgery.errors import ArtifactError
from modelsurgery.report.comparing import read_pairs
from modelsurgery.report.html import write_report
from modelsurgery.report.sequence import print_sequence
from modelsurgery.report.terminal import print_evaluation, print_results
from modelsurgery.report.tuning import print_tuning
from modelsurgery.results import (
    EvaluationResults,
    Results,
    RunResults,
    SequenceResults,
    plain,
    read_results,
    results_of,
)
from modelsurgery.results.parts import FORMAT

RUNS = Path(__file__).parent / "results"
KINDS = {"run": RunResults, "tune": RunResults, "refusal": RunResults,
         "evaluation": EvaluationResults, "alone": EvaluationResults,
         "sequence": SequenceResults}  # fmt: skip


def content_of(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RUNS / name / "results.json").read_text())
    return content


def shown(results: Results, *, tuned: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=80, highlight=False, soft_wrap=True)
    if isinstance(results, RunResults):
        (print_tuning if tuned else print_results)(results, console)
    elif isinstance(results, SequenceResults):
        print_sequence(results, console)
    else:
        print_evaluation(results, console)
    return stream.getvalue()


@pytest.mark.parametrize("name", KINDS)
def test_what_earlier_versions_wrote_is_read_whole(name: str) -> None:
    before, results = content_of(name), read_results(RUNS / name)
    assert type(results) is KINDS[name]
    assert "format" not in before
    assert results.format == FORMAT
    after = json.loads(json.dumps(plain(results)))
    with_current_names(before)
    assert {key: after[key] for key in before} == {
        key: known(after[key], value) for key, value in before.items()
    }
    # And what is written today is read the same.
    assert results_of(after, name) == results


def with_current_names(content: dict[str, Any]) -> None:
    if "probe" in content:
        content["probe"]["test_texts"] = content["probe"].pop("held_out_texts")
        content["edit"]["direction_source"] = content["edit"].pop("direction_rule")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("run-2", RunResults), ("evaluation-2", EvaluationResults), ("sequence-2", SequenceResults)],
)
def test_format_2_is_read_with_the_names_of_today(name: str, kind: type[Results]) -> None:
    before, results = content_of(name), read_results(RUNS / name)
    assert before["format"] == 2
    assert type(results) is kind
    after = json.loads(json.dumps(plain(results)))
    assert after.pop("format") == before.pop("format") + 1
    if isinstance(results, RunResults):
        assert results.probe.test_texts == before["probe"].pop("held_out_texts") == 200
        assert results.edit.direction_source == before["edit"].pop("direction_rule") == "W1"
        del after["probe"]["test_texts"], after["edit"]["direction_source"]
    assert after == known(after, before)


def known(after: Any, before: Any) -> Any:
    """The old value with what today's has besides, which must be empty."""
    if isinstance(before, dict) and isinstance(after, dict):
        more = {key: value for key, value in after.items() if key not in before}
        assert not any(more.values()), more
        return {**more, **{key: known(after[key], value) for key, value in before.items()}}
    if isinstance(before, list) and isinstance(after, list):
        return [known(one, other) for one, other in zip(after, before, strict=True)]
    return before


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("run", ("45.0% (31-60)   12.5% (5-26)  -32.5 points (-72%)  <0.0001", "◂ chosen",
                 "119 of 2560 gate rows in 4 of 4 tensors, all layers, rule natural-gradient")),
        ("tune", ("30.8% 0.023", "Spearman's rho +0.60", "limit   capability")),
        ("refusal", ("over-refusal, greedy", "on own answers", "+1.0 pt ◂ chosen")),
        ("evaluation", ("as texts judges (40)", "perplexity, neutral text", "less",
                        "lab and texts agree on 53.8% of 160 answers, kappa 0.34")),
        ("alone", ("65.0% (43-82)", "no edit")),
        ("sequence", ("after toxicity and negativity", "37.5% (24-53)", "+0.4%",
                      "cosine of directions +0.83")),
    ],
)  # fmt: skip
def test_old_results_are_shown_in_full(name: str, says: tuple[str, ...]) -> None:
    text = shown(read_results(RUNS / name), tuned=name == "tune")
    for one in says:
        assert one in text
    assert "…" not in text  # no column is cut


@pytest.mark.parametrize("name", [*(name for name in KINDS if name != "sequence"), "run-2"])
def test_old_runs_have_a_report(name: str, tmp_path: Path) -> None:
    page = write_report(RUNS / name, tmp_path / "page.html").read_text()
    assert 'id="rates"' in page
    assert ('class="curve uncalled"' in page) == (name == "refusal")


@pytest.mark.parametrize(("name", "pairs"), [("run", 4), ("evaluation", 2)])
def test_answers_of_old_runs_can_be_compared(name: str, pairs: int) -> None:
    assert len(read_pairs(RUNS / name).pairs) == pairs


def test_results_of_a_later_version_are_refused_by_their_number(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(RUNS / "run", run)
    (run / "results.json").write_text(json.dumps({**content_of("run"), "format": 4}))
    with pytest.raises(
        ArtifactError, match=r"results of format 4; this version reads formats 1 to 3"
    ):
        write_report(run)


def test_damaged_results_are_refused_by_the_value_that_is_wrong() -> None:
    content = content_of("run")
    content["perplexity"]["rise"] = "much"
    with pytest.raises(ArtifactError, match=r"perplexity\.rise: Input should be a valid number"):
        results_of(content, "run")
    with pytest.raises(ArtifactError, match="expected a JSON object"):
        results_of([], "run")
    today = plain(read_results(RUNS / "run"))
    with pytest.raises(ArtifactError, match="surprise: Extra inputs are not permitted"):
        results_of({**today, "surprise": 1}, "run")
