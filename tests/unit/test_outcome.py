"""Whether an edit did what it was meant to: in words, in the first line, and as an exit code."""

import io
from typing import Any

import pytest
from rich.console import Console
from test_command_line import RESULTS

from modelsurgery.cli.run import _end
from modelsurgery.errors import DamageBudgetError, NoEffectError
from modelsurgery.evaluation.outcome import outcome_of
from modelsurgery.evaluation.protocol import compare
from modelsurgery.report.html.runs import verdict_of
from modelsurgery.report.terminal import print_results
from modelsurgery.results import Compared, RunResults, results_of


def measured(lost: int, gained: int, kept: int, never: int) -> Compared:
    """Of so many prompts the behavior went, came, stayed, or never was."""
    pairs = [(1, 0)] * lost + [(0, 1)] * gained + [(1, 1)] * kept + [(0, 0)] * never
    return compare([before for before, _ in pairs], [after for _, after in pairs], "prompts")


FALLS, RISES = measured(12, 0, 4, 24), measured(0, 12, 4, 24)
SAME, NEVER, ALWAYS = measured(2, 2, 4, 32), measured(0, 0, 0, 40), measured(0, 0, 40, 0)


@pytest.mark.parametrize(
    ("direction", "sampled", "greedy", "kind"),
    [
        ("away", FALLS, SAME, "changed"),
        ("toward", RISES, SAME, "changed"),
        ("away", RISES, FALLS, "wrong way"),
        ("toward", FALLS, RISES, "wrong way"),
        ("away", SAME, FALLS, "changed"),
        ("away", SAME, RISES, "wrong way"),
        ("toward", SAME, SAME, "no change"),
        ("away", SAME, None, "no change"),
        ("away", NEVER, NEVER, "nothing to change"),
        ("away", NEVER, SAME, "no change"),
        ("toward", NEVER, NEVER, "no change"),
        ("toward", ALWAYS, None, "nothing to change"),
        ("away", ALWAYS, ALWAYS, "no change"),
    ],
)
def test_what_became_of_a_behavior(
    direction: Any, sampled: Compared, greedy: Compared | None, kind: str
) -> None:
    assert outcome_of("curtness", direction, sampled, greedy).kind == kind


def test_greedy_continuations_must_pass_a_stricter_test() -> None:
    """Six prompts of six: p = 0.031 alone, and 0.062 as one of two."""
    barely = measured(6, 0, 4, 30)
    assert outcome_of("curtness", "away", barely).kind == "changed"
    assert outcome_of("curtness", "away", SAME, barely).kind == "no change"


def test_the_sentences_have_the_rates() -> None:
    said = outcome_of("curtness", "away", RISES).sentence
    assert "from 10.0% to 40.0% of 40 held-out prompts" in said
    assert "but it should become less frequent" in said
    assert (
        "none of 40 held-out prompts show curtness"
        in outcome_of("curtness", "away", NEVER).sentence
    )


def test_an_edit_without_effect_is_the_first_line_of_terminal_and_report() -> None:
    outcome = outcome_of("toxicity", "away", RISES)
    change = RISES.model_dump()["change"]
    assert change["verdict"] == "more"
    behavior = {**RESULTS["behavior"], "outcome": outcome.model_dump(), "change": change}
    results = results_of({**RESULTS, "behavior": behavior}, "here")
    assert isinstance(results, RunResults)
    stream = io.StringIO()
    print_results(results, Console(file=stream, soft_wrap=True))
    assert stream.getvalue().startswith(outcome.sentence)
    assert verdict_of(results.behavior) == outcome.sentence


def test_the_budget_comes_before_the_effect_and_both_are_said() -> None:
    _end((), [])
    with pytest.raises(NoEffectError, match="nothing moved") as told:
        _end((), ["nothing moved."])
    assert told.value.exit_code == 5
    with pytest.raises(
        DamageBudgetError, match=r"budget of perplexity.*; also: nothing moved"
    ) as over:
        _end(("perplexity",), ["nothing moved."])
    assert over.value.exit_code == 3
