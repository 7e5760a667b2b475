"""Progress: what stages know of themselves, and what is shown of it, and where."""

import io
import mmap
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest
from rich.console import Console

from families import random_edit
from modelsurgery import LanguageModel, extract_hidden_states, load_model
from modelsurgery.evaluation.generation import Decoding, TransformersGenerator
from modelsurgery.evaluation.language_modelling import compare_language_modelling, greedy_answers
from modelsurgery.files.progress import Advance, silent
from modelsurgery.report.live import (
    Stages,
    gpu_bytes,
    live_progress,
    plain_line,
    resident_bytes,
)
from tiny import tiny_sentences

COLOR = re.compile(r"\x1b\[[\d;]*(3[0-8]|9[0-7])[\d;]*m")
LINE = re.compile(r"\[\d+:\d\d\] .*")
SENTENCES = tiny_sentences(30)


class Recorder:
    """A listener that adds up what it is told, by stage."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}
        self.tokens: dict[str, int] = {}
        self.totals: dict[str, int] = {}

    @contextmanager
    def __call__(self, stage: str, total: int) -> Iterator[Advance]:
        self.totals[stage] = total

        def advance(steps: int, *, tokens: int = 0) -> None:
            self.steps[stage] = self.steps.get(stage, 0) + steps
            self.tokens[stage] = self.tokens.get(stage, 0) + tokens

        yield advance


@pytest.fixture(scope="module")
def model(tiny_llama: object) -> LanguageModel:
    return load_model(str(tiny_llama))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines every hundredth of a second."""
    monkeypatch.setattr("modelsurgery.report.live.SECONDS_BEFORE_FIRST_LINE", 0.01)
    monkeypatch.setattr("modelsurgery.report.live.SECONDS_BETWEEN_LINES", 0.01)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stages(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Stages:
    monkeypatch.setattr("modelsurgery.report.live.resident_bytes", lambda: 1_540_000_000)
    monkeypatch.setattr("modelsurgery.report.live.gpu_bytes", lambda: 0)
    return Stages(Console(file=io.StringIO(), get_time=clock))


def test_time_left_and_rate_follow_from_the_pace_so_far(stages: Stages, clock: Clock) -> None:
    with stages("texts", 40) as advance:
        assert plain_line(stages) == "[0:00] texts 0 of 40; 1.5 GB"
        clock.seconds += 15
        advance(5, tokens=300)
        clock.seconds += 5
        advance(5, tokens=300)
        assert plain_line(stages) == "[0:20] texts 10 of 40, 1:00 left, 30 tokens/s; 1.5 GB"
        clock.seconds += 100  # longer than rich looks back by default
        advance(0, tokens=600)
        advance(10)
        assert plain_line(stages) == "[2:00] texts 20 of 40, 2:00 left, 10 tokens/s; 1.5 GB"
    with stages("load model", 0) as advance:
        assert plain_line(stages) == "[2:00] load model; 1.5 GB"
    with stages("trials", 8) as advance:
        clock.seconds += 9
        advance(9)  # no end is known
        assert plain_line(stages) == "[2:09] trials; 1.5 GB"


def test_stages_are_open_inside_each_other_and_closed_by_an_error(stages: Stages) -> None:
    assert [one.description for one in stages.shown()] == ["starting"]
    with stages("survivors", 8) as outer, stages("generate", 8) as inner:
        outer(1)
        inner(0, tokens=5)
        shown = [(one.description, one.completed, one.fields["tokens"]) for one in stages.shown()]
        assert shown == [("survivors", 1, 0), ("generate", 0, 5)]
    with pytest.raises(KeyError), stages("texts", 1):
        raise KeyError
    assert [one.description for one in stages.shown()] == ["working"]


def test_a_plain_line_tells_stage_time_left_rate_and_memory(
    stages: Stages, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.seconds += 30
    with stages("survivors", 8) as survivors:
        clock.seconds += 25
        with stages("generate [all]", 300) as generate:
            clock.seconds += 10
            survivors(5)
            generate(100, tokens=12_345)
            told = (
                "[1:05] survivors 5 of 8, 21 s left; "
                "generate [all] 100 of 300, 20 s left, 1,234 tokens/s; 1.5 GB"
            )
            assert plain_line(stages) == told
            monkeypatch.setattr("modelsurgery.report.live.gpu_bytes", lambda: 20_000_000_000)
            assert plain_line(stages) == f"{told}, 20.0 GB on GPU"
            monkeypatch.setattr("modelsurgery.report.live.resident_bytes", lambda: None)
            monkeypatch.setattr("modelsurgery.report.live.gpu_bytes", lambda: 0)
            assert plain_line(stages) == told.removesuffix("; 1.5 GB")


@pytest.mark.usefixtures("quick")
def test_lines_come_while_one_step_takes_long_and_between_stages() -> None:
    stream = io.StringIO()
    with live_progress(Console(file=stream)) as progress:
        _wait_for(stream, "starting")
        with progress("texts", 4) as advance:
            advance(1)
            _wait_for(stream, "texts 1 of 4, 1 s left")
        _wait_for(stream, "working")
    lines = stream.getvalue().splitlines()
    assert all(LINE.fullmatch(line) for line in lines)
    time.sleep(0.05)
    assert stream.getvalue().splitlines() == lines


def test_what_takes_no_more_than_a_moment_says_nothing() -> None:
    stream = io.StringIO()
    with live_progress(Console(file=stream)) as progress, progress("texts", 4) as advance:
        advance(4)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_is_drawn_on_and_left_clean_in_color_if_wanted(
    monkeypatch: pytest.MonkeyPatch, no_color: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system="standard")
    with live_progress(console) as progress, progress("texts", 4) as advance:
        advance(1, tokens=10)
        _wait_for(stream, "texts")
        _wait_for(stream, "1 of 4")
    drawn = stream.getvalue()
    assert "tokens/s" in drawn
    assert "GB" in drawn
    assert bool(COLOR.search(drawn)) is not no_color
    assert drawn.endswith("\x1b[1A\x1b[2K")  # the last lines are taken away again


def test_a_dumb_terminal_gets_plain_lines(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = io.StringIO()
    with live_progress(Console(file=stream, force_terminal=True)):
        _wait_for(stream, "starting")
    assert all(LINE.fullmatch(line) for line in stream.getvalue().splitlines())


def test_resident_memory_grows_with_what_is_held() -> None:
    before = resident_bytes()
    assert before is not None
    with mmap.mmap(-1, 200 << 20) as held:  # new pages: an array may get what was freed before
        held.write(b"x" * len(held))
        after = resident_bytes()
        assert after is not None
        assert after - before > 150 << 20


def test_a_torch_that_is_still_being_imported_holds_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half = ModuleType("torch")
    monkeypatch.setitem(sys.modules, "torch", half)
    assert gpu_bytes() == 0
    half.cuda = ModuleType("torch.cuda")  # type: ignore[attr-defined]
    assert gpu_bytes() == 0
    monkeypatch.delitem(sys.modules, "torch")
    assert gpu_bytes() == 0


def test_reading_texts_tells_of_their_tokens(model: LanguageModel) -> None:
    tokens = sum(len(ids) for ids in model.tokenizer(SENTENCES)["input_ids"])
    told = Recorder()
    extract_hidden_states(model, SENTENCES, [3], batch_tokens=64, progress=told)
    assert told.steps == told.totals == {"hidden states": len(SENTENCES)}
    assert told.tokens == {"hidden states": tokens}

    told = Recorder()
    compare_language_modelling(model, SENTENCES, (), progress=told)
    assert told.tokens == {"perplexity": tokens}

    told = Recorder()
    compare_language_modelling(
        model, SENTENCES, [random_edit(model.checkpoint.directory)], progress=told
    )
    assert told.tokens == {"perplexity": 2 * tokens}  # read by the base and by the edited model

    told = Recorder()
    greedy_answers(model, [(one, " cat") for one in SENTENCES], progress=told)
    assert told.tokens == {"answers": tokens + len(SENTENCES)}


def test_writing_tells_of_each_token_while_it_is_written(model: LanguageModel) -> None:
    told = Recorder()
    made = TransformersGenerator(model, batch_tokens=200).generate(
        SENTENCES, Decoding(8, seed=0), progress=told
    )
    assert told.steps == told.totals == {"generate": len(set(SENTENCES))}
    unique = dict(zip(SENTENCES, made, strict=True))
    assert told.tokens == {"generate": sum(one.tokens for one in unique.values())}

    told = Recorder()
    stopping = Decoding(20, seed=0, stop="cat")
    stopped = TransformersGenerator(model).generate(SENTENCES, stopping, progress=told)
    assert any(one.is_finished for one in stopped)
    unique = dict(zip(SENTENCES, stopped, strict=True))
    assert told.tokens == {"generate": sum(one.tokens for one in unique.values())}


def test_silence_takes_all_that_it_is_told() -> None:
    with silent("texts", 4) as advance:
        advance(1)
        advance(0, tokens=5)


def _wait_for(stream: io.StringIO, text: str) -> None:
    end = time.monotonic() + 10
    while text not in stream.getvalue():
        assert time.monotonic() < end, stream.getvalue()
        time.sleep(0.01)
