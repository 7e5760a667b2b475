"""The plan of a run: what it expects, what it makes smaller, and what a resumed run keeps."""

import json
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelsurgery.data.behaviors import Behavior
from modelsurgery.errors import NoSignalError, OutputExistsError
from modelsurgery.evaluation.decoding import Decoding, Speed
from modelsurgery.model.activations.texts import tokenize_labeled
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.loading import load_model
from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.pipeline.running import judged_behavior, plan_recipe, run_recipe
from modelsurgery.pipeline.runs import RUN_MANIFEST, open_run
from modelsurgery.pipeline.scheduling import (
    SETTLED,
    Pace,
    Schedule,
    Sizes,
    StageClock,
    make_schedule,
    measure_pace,
    pace,
)
from modelsurgery.pipeline.scheduling.memory import peak_bytes, planned_memory
from modelsurgery.pipeline.scheduling.sizes import SMALLER
from modelsurgery.pipeline.sequence import _in_time
from modelsurgery.report.scheduling import plan_lines
from modelsurgery.results.notes import reduced_lines
from modelsurgery.search.fitting import RULE_TEXTS
from tiny import WORDS

FAST, SLOW = Pace(1e6, 1e6, 1e6, 1e6), Pace(50.0, 25.0, 50.0, 5.0)


@pytest.fixture(scope="module")
def model(demo_path: Path) -> LanguageModel:
    return load_model(demo_path)


@pytest.fixture(scope="module")
def behavior() -> Behavior:
    return judged_behavior(Recipe())[0]


def scheduled(model: LanguageModel, behavior: Behavior, pace: Pace, minutes: float | None,
              **options: Any) -> Schedule:  # fmt: skip
    recipe = Recipe(direction="away", minutes=minutes, **options)
    return make_schedule(recipe, model, behavior, pace, minutes=minutes)


def test_with_time_enough_nothing_is_smaller(model: LanguageModel, behavior: Behavior) -> None:
    found = scheduled(model, behavior, FAST, 15)
    assert found.sizes == Sizes()
    assert found.reduced == {}
    assert found.fits
    assert reduced_lines(found.to_json()) == []


def test_memory_counts_second_moments_where_the_rule_keeps_them(
    model: LanguageModel, behavior: Behavior
) -> None:
    by_rule = {
        rule: scheduled(model, behavior, FAST, 15, rule=rule, trials=1).memory_bytes
        for rule in ("natural-gradient", "least-squares", "paper")
    }
    width, sites = 160, 4
    assert by_rule["natural-gradient"] - by_rule["paper"] == 4 * width**2 * sites
    assert by_rule["least-squares"] == by_rule["natural-gradient"]


def test_seconds_are_tokens_by_pace(model: LanguageModel, behavior: Behavior) -> None:
    """The measurement: 4 rounds (3 sampled, 1 greedy) of 300 prompts, for base and edited."""
    found = scheduled(model, behavior, Pace(1e9, 1e9, 1e9, 100.0), None)
    by_name = {stage.name: stage for stage in found.stages}
    new = behavior.prompt_sets[0].max_new_tokens
    assert by_name["held-out prompts"].writes == 2 * 4 * 300 * new
    assert by_name["held-out prompts"].seconds == pytest.approx(2 * 4 * 300 * new / 100, rel=1e-3)
    assert by_name["dose-response"].writes == 8 * len(behavior.validation_prompts) * new
    assert found.seconds == pytest.approx(sum(one.seconds for one in found.stages))


def test_sizes_fall_in_the_stated_order_until_the_run_fits(
    model: LanguageModel, behavior: Behavior
) -> None:
    pace = Pace(1e4, 1e4, 1e4, 400.0)
    whole = scheduled(model, behavior, pace, None).seconds / 60
    before = -1
    for share in (1.3, 0.9, 0.6, 0.4, 0.2):
        found = scheduled(model, behavior, pace, whole * share)
        assert found.fits
        steps = list(Sizes().smaller(frozenset(), Sizes(train_texts=RULE_TEXTS)))
        place = steps.index(found.sizes)
        assert place > before
        before = place
        if place:  # and no further than it must
            fuller = steps[place - 1]
            given = {name: getattr(fuller, name) for name in SETTLED if getattr(fuller, name)}
            assert (
                scheduled(model, behavior, pace, None, **given).seconds > 0.85 * 60 * whole * share
            )


def test_least_sizes_that_do_not_fit_are_said_to_be_too_much(
    model: LanguageModel, behavior: Behavior
) -> None:
    found = scheduled(model, behavior, SLOW, 1)
    least = dict(SMALLER)  # the last of each name
    assert {name: getattr(found.sizes, name) for name in least} == least
    assert not found.fits
    told = "\n".join(plan_lines(found.to_json()))
    assert "more than 1 minutes" in told
    assert "held-out prompts 300 → 40" in told


def test_what_was_asked_for_stays(model: LanguageModel, behavior: Behavior) -> None:
    found = scheduled(model, behavior, SLOW, 1, prompt_count=250, samples=2)
    assert (found.sizes.prompt_count, found.sizes.samples) == (250, 2)
    assert set(found.reduced) == {"doses", "validation_prompts", "train_texts", "neutral_texts"}


def test_a_search_gets_what_is_left_of_the_minutes(
    model: LanguageModel, behavior: Behavior
) -> None:
    pace = Pace(1e4, 1e4, 1e4, 400.0)
    found = scheduled(model, behavior, pace, 4, tune=True)
    others = sum(one.seconds for one in found.stages if one.name != "trials")
    assert found.search_seconds is not None
    assert others <= 120
    assert found.search_seconds >= 120
    assert scheduled(model, behavior, pace, None, tune=True, trials=40).search_seconds is None


def test_a_sequence_shares_its_minutes() -> None:
    assert _in_time(Recipe(minutes=9), 2).minutes == 3
    assert _in_time(Recipe(), 2).minutes is None


def test_a_pace_is_measured_on_the_behaviors_texts(
    model: LanguageModel, behavior: Behavior
) -> None:
    seen: list[str] = []

    @contextmanager
    def progress(stage: str, total: int) -> Any:
        seen.append(stage)
        yield lambda steps, tokens=0: None

    found = measure_pace(model, behavior, progress=progress)
    assert min(vars(found).values()) > 1
    assert found.learns < found.reads * 2
    assert seen == ["calibrate"]


def test_a_first_round_that_something_else_slows_does_not_decide(
    model: LanguageModel, behavior: Behavior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run was planned for 8 hours, and cut to the least, because of a busy moment."""
    monkeypatch.setattr(pace, "ENOUGH_SECONDS", 0.2)
    texts = tokenize_labeled(model, behavior.train[:8])
    seconds = iter((0.0, 0.5))  # once without counting, then the first round

    def work(some: Any) -> None:
        time.sleep(next(seconds, 0.0))

    assert pace._rate(texts, work) > 100 * sum(len(one.ids) for one in texts[:2])


def test_reading_is_timed_with_many_texts_together(
    model: LanguageModel, behavior: Behavior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run planned for 12 minutes took 7: a batch of eight short texts was timed."""
    texts = tokenize_labeled(model, behavior.train[:32])
    clock = [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: clock[0])

    def work(some: Any) -> None:
        """0.4 seconds a call, and 2 milliseconds a token."""
        clock[0] += 0.4 + sum(len(one.ids) for one in some) / 500

    tokens = sum(len(one.ids) for one in texts)
    assert tokens < 1024
    assert pace._rate(texts, work) == pytest.approx(tokens / (0.4 + tokens / 500))


def test_writing_is_timed_with_as_many_prompts_as_share_a_batch(
    model: LanguageModel, behavior: Behavior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run planned for 15 minutes took 9, with a quarter of the prompts: 16 prompts were timed."""

    class Slow:
        """Half a second a call, and a millisecond a token."""

        def __init__(self, model: LanguageModel) -> None: ...

        def generate(self, prompts: Sequence[str], decoding: Decoding) -> None:
            tokens = len(prompts) * decoding.max_new_tokens
            self.speed = Speed(10, 0.01, tokens, 0.5 + tokens / 1000, 10)

    monkeypatch.setattr(pace, "TransformersGenerator", Slow)
    assert pace._writing(model, behavior)[1] == pytest.approx(64 * 8 / (0.5 + 0.512))


def test_the_clock_adds_up_outermost_stages() -> None:
    @contextmanager
    def silent(stage: str, total: int) -> Any:
        yield lambda steps, tokens=0: None

    clock = StageClock(silent)
    with clock("damage", 0), clock("read texts", 3):
        pass
    with clock("damage", 0):
        pass
    assert list(clock.seconds) == ["damage"]


def test_a_plan_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = plan_recipe(Recipe(minutes=5)).to_json()
    assert {one["name"] for one in found["stages"]} >= {"gains", "strength", "held-out prompts"}
    assert found["memory_bytes"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_keeps_the_sizes_that_it_began_with(tmp_path: Path) -> None:
    asked = {"samples": None, "doses": None, "seed": 0}

    def opened(recipe: dict[str, Any], settle: dict[str, Any] | None = None) -> dict[str, Any]:
        with open_run(tmp_path / "run", recipe, default_name="x", settled=SETTLED) as run:
            if settle:
                run.settle(settle, {"minutes": 6})
            return {**run.recorded, "plan": run.plan()}

    opened(asked, {"samples": 1, "doses": 3})
    again = opened(asked)
    assert (again["samples"], again["doses"], again["plan"]) == (1, 3, {"minutes": 6})
    opened({**asked, "samples": 1})  # what it is
    with pytest.raises(OutputExistsError):
        opened({**asked, "samples": 2})


def test_a_run_says_what_was_planned_and_what_it_took(tmp_path: Path, tiny_llama: Path) -> None:
    told: list[dict[str, Any]] = []
    kinds = (("happy kind good", 0), ("sad rude bad", 1))
    rows = [
        {"text": f"{WORDS[n % 30]} {words} {WORDS[(7 * n) % 31]}", "label": label}
        for n in range(40)
        for words, label in kinds
    ]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe(
        model=str(tiny_llama), texts=texts, rule="paper",
        strength=1.0, minutes=5, out=tmp_path / "run", max_new_tokens=3,
    )  # fmt: skip
    result = run_recipe(recipe, announce=told.append)
    assert len(told) == 1
    plan = json.loads((tmp_path / "run" / "results.json").read_text())["plan"]
    took = {one["name"]: one["took"] for one in plan["stages"]}
    assert all(seconds is not None for seconds in took.values())
    assert sum(took.values()) < result.seconds
    kept = yaml.safe_load((tmp_path / "run" / "recipe.resolved.yaml").read_text())
    assert (kept["samples"], kept["doses"], kept["prompt_count"]) == (3, 8, 300)
    assert result.recipe["samples"] == 3


def test_texts_without_a_signal_leave_no_run(tmp_path: Path) -> None:
    def stopped(error: type[BaseException]) -> None:
        with open_run(tmp_path / "run", {}, default_name="x", keep=True) as run:
            (run.path / "store.sqlite").touch()
            raise error("stop")

    with pytest.raises(NoSignalError):
        stopped(NoSignalError)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt):
        stopped(KeyboardInterrupt)
    with pytest.raises(NoSignalError):  # the resumed run, too
        stopped(NoSignalError)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run" / "1-first").mkdir(parents=True)
    (tmp_path / "run" / "recipe.resolved.yaml").write_text("now: '2026-01-01T00:00:00'\n")
    (tmp_path / "run" / "1-first" / RUN_MANIFEST).touch()
    with pytest.raises(NoSignalError):  # a step that is done is not lost
        stopped(NoSignalError)
    assert (tmp_path / "run" / "1-first" / RUN_MANIFEST).is_file()


def test_memory_is_planned_without_reading_weights(tiny_llama: Path) -> None:
    recipe = Recipe(model=str(tiny_llama))
    assert planned_memory(recipe) == peak_bytes(recipe, load_model(tiny_llama, device="cpu"))
    halved = planned_memory(Recipe(model=str(tiny_llama), dtype="bfloat16"))
    assert halved < planned_memory(recipe)
