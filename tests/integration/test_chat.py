"""`surgery chat` as a process: lines in a pipe, and a terminal with its keys."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from command_line import Outcome, Running, surgery_commands, without_progress, written
from families import random_edit
from modelsurgery import Edit, demo_model_path, load_model, save_edit
from modelsurgery.evaluation.generation import Continuation, Decoding, TransformersGenerator

PROMPT = "\n> "
PROMPTS = ("Helen walks to the river, and", "Peter is a")
ENVIRONMENT = {"TERM": "xterm-256color", "NO_COLOR": "1"}
# A quarter of a second a token, so that there is time for a key.
SLOW = """
import time
import modelsurgery.pipeline.conversation as conversation

original = conversation.new_tokens

def slowly(model, inputs, count, ends, processors, watching):
    def wait(ids, scores, **named):
        time.sleep(0.25)
        return watching[0](ids, scores, **named)
    return original(model, inputs, count, ends, processors, [wait])

conversation.new_tokens = slowly
"""
TERMINAL_CODES = re.compile(r"\x1b\[[\d;?]*[a-zA-Z]|\r")


@pytest.fixture(scope="module")
def edit() -> Edit:
    return random_edit(demo_model_path())


@pytest.fixture(scope="module")
def file(edit: Edit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("edit") / "my edit.safetensors"
    save_edit(edit, path)
    return path


def answers(edit: Edit, decoding: Decoding) -> tuple[Continuation, ...]:
    """What the edited demo model says to the prompts."""
    generator = TransformersGenerator(load_model(demo_model_path()))
    return generator.generate(PROMPTS, decoding, [edit])


def piped(file: Path, lines: str | bytes, *options: str, code: int = 0) -> Outcome:
    reading, writing = os.pipe()
    os.write(writing, lines.encode() if isinstance(lines, str) else lines)
    os.close(writing)
    with (
        os.fdopen(reading) as given,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        chat = surgery_commands().start(
            "chat", "demo", "--edit", file, *options,
            stdin=given, stdout=out, stderr=err, environment=ENVIRONMENT,
        )  # fmt: skip
        done = Outcome(chat.wait(), written(out), written(err))
    assert done.code == code, done.stderr
    return done


def test_each_line_of_a_pipe_is_answered_by_both(edit: Edit, file: Path) -> None:
    lines = f"{PROMPTS[0]}\n\n/strength 0\n{PROMPTS[1]}\n \n/strength -0.5\n/again\n"
    done = piped(file, lines)
    base = answers(edit.scaled(0), Decoding(64))
    edited = answers(edit, Decoding(64))[0].text
    turned = answers(edit.scaled(-0.5), Decoding(64))[1].text
    assert base[0].text != edited
    assert done.stdout.splitlines() == [
        f"base: {base[0].text}",
        f"edited: {edited}",
        f"base: {base[1].text}",
        f"edited: {base[1].text}",
        f"base: {base[1].text}",
        f"edited: {turned}",
    ]
    told = without_progress(done.stderr)
    assert "edit × 0, greedy" in told
    assert "\x1b" not in done.stdout + told


def test_json_lines_tell_how_each_answer_was_made(edit: Edit, file: Path) -> None:
    lines = (
        f"{PROMPTS[0]}\n/sample 0.8\n/seed 7\n/off\n{PROMPTS[0]}\n/on\n/again\n/quit\nnot read\n"
    )
    done = piped(file, lines, "--json", "--max-new-tokens", "12")
    first, off, on = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["seed"], first["temperature"], first["strength"]) == (None, None, 1.0)
    assert (on["seed"], on["temperature"]) == (7, 0.8)
    assert (off["strength"], on["strength"]) == (0.0, 1.0)
    sampled = Decoding(12, seed=7, temperature=0.8)
    expected = answers(edit.scaled(0), sampled)[0], answers(edit, sampled)[0]
    assert (on["base"]["text"], on["edited"]["text"]) == tuple(one.text for one in expected)
    assert off["edited"] == off["base"] == on["base"]


def test_a_value_that_cannot_be_used_ends_a_script(file: Path) -> None:
    done = piped(file, f"/strength much\n{PROMPTS[0]}\n", code=2)
    assert done.stdout == ""
    assert without_progress(done.stderr).endswith(
        "surgery: /strength much; expected a factor like 0.5\n"
    )


def test_a_line_that_is_no_command_is_answered_whatever_it_begins_with(file: Path) -> None:
    prompts = ["/nosuch", "/etc is a directory", "/off with it", "/again and again", "/ a", " /off"]
    done = piped(file, "\n".join([*prompts, "/off", ""]), "--json", "--max-new-tokens", "2")
    exchanges = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["prompt"] for one in exchanges] == prompts
    assert {one["strength"] for one in exchanges} == {1.0}
    assert "edit off" in done.stderr


def test_a_byte_order_mark_is_no_part_of_the_first_line(file: Path) -> None:
    short = ("--json", "--max-new-tokens", "2")
    done = piped(file, f"\ufeff{PROMPTS[0]}\r\n{PROMPTS[1]}\r\n", *short)
    told = [json.loads(line)["prompt"] for line in done.stdout.splitlines()]
    assert told == list(PROMPTS)
    commanded = piped(file, f"\ufeff/off\n{PROMPTS[0]}", *short)
    assert json.loads(commanded.stdout)["strength"] == 0


def test_bytes_that_are_not_utf8_are_told_after_the_lines_before_them(file: Path) -> None:
    lines = PROMPTS[0].encode() + b"\n" + "café".encode("latin-1") + b"\nnot read\n"
    done = piped(file, lines, "--max-new-tokens", "2", code=2)
    assert len(done.stdout.splitlines()) == 2
    assert without_progress(done.stderr) == (
        "surgery: stdin, line 2: not UTF-8 (byte 3 of it); expected UTF-8, convert the prompts\n"
    )


class Terminal:
    """A command behind a terminal, 100 columns wide."""

    def __init__(self, running: Running, keyboard: int) -> None:
        self.running, self.keyboard = running, keyboard
        self.shown = ""

    def type(self, keys: str | bytes) -> None:
        os.write(self.keyboard, keys.encode() if isinstance(keys, str) else keys)

    def wait_for(self, text: str, seconds: float = 120.0) -> str:
        """What was shown until `text` was, without what moves the cursor; it is taken away."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < end, self.shown
            if select.select([self.keyboard], [], [], 0.1)[0]:
                try:
                    self._add(os.read(self.keyboard, 1 << 16))
                except OSError:  # the process has ended
                    assert text in self.shown, self.shown
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def _add(self, content: bytes) -> None:
        self.shown += TERMINAL_CODES.sub("", content.decode(errors="replace"))

    def exit_code(self) -> int:
        return self.running.wait()


@contextmanager
def terminal(*arguments: str, before: str = "") -> Iterator[Terminal]:
    keyboard, screen = pty.openpty()
    fcntl.ioctl(keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    running = surgery_commands().start(
        *arguments, stdin=screen, stdout=screen, stderr=screen,
        environment=ENVIRONMENT, before=before,
    )  # fmt: skip
    os.close(screen)
    try:
        yield Terminal(running, keyboard)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
        os.close(keyboard)


def test_a_terminal_shows_both_answers_side_by_side_and_keeps_typed_lines(
    edit: Edit, file: Path
) -> None:
    with terminal("chat", "demo", "--edit", str(file)) as screen:
        assert "edit × 1, greedy" in screen.wait_for(PROMPT)
        screen.type(PROMPTS[1] + "\n")
        shown = screen.wait_for(PROMPT)  # frames of answers that are being written, then the whole
        base, edited = answers(edit.scaled(0), Decoding(64)), answers(edit, Decoding(64))
        heading, *lines = shown.rsplit("base ", 1)[1].splitlines()
        assert heading.split() == ["edited", "×", "1"]
        words = " ".join(lines).split()
        for word in (*base[1].text.split(), *edited[1].text.split()):
            assert word in words
        screen.type("/strength 0.5\n")
        assert "edit × 0.5, greedy" in screen.wait_for(PROMPT)
        screen.type("\x1b[A\x1b[A\n")  # twice up: the prompt again
        assert "edited × 0.5" in screen.wait_for("tokens/s")
        screen.wait_for(PROMPT)
        screen.type("/strength x\n")
        assert "/strength x; expected a factor like 0.5" in screen.wait_for(PROMPT)
        screen.type("/nosuch\n")
        assert "no command /nosuch; expected one of /help" in screen.wait_for(PROMPT)
        screen.type(b"caf\xff\n")
        assert "that line is not UTF-8; set the terminal to UTF-8" in screen.wait_for(PROMPT)
        screen.type("\x04")
        assert screen.exit_code() == 0


def test_ctrl_c_stops_an_answer_and_the_next_one_the_program(file: Path) -> None:
    arguments = ("chat", "demo", "--edit", str(file))
    with terminal(*arguments, before=SLOW) as screen:
        screen.wait_for(PROMPT)
        screen.type(PROMPTS[0] + "\n")
        screen.wait_for("base")  # the first tokens are there
        screen.type("\x03")
        footer = screen.wait_for("stopped")
        counts = re.findall(r"(\d+) and (\d+) tokens, [\d,]+ tokens/s, $", footer[:-7])
        assert counts
        assert max(int(count) for count in counts[0]) < 6
        screen.wait_for(PROMPT)
        screen.type("/off\n")  # it goes on
        screen.wait_for("edit off")
        screen.wait_for(PROMPT)
        time.sleep(0.5)  # the prompt is shown a moment before the line is read
        screen.type("\x03")
        shown = screen.wait_for("my edit.safetensors'")
        assert shown.strip().endswith(
            f"interrupted; to continue, run: surgery chat demo --edit '{file}'"
        )
        assert screen.exit_code() == 130


def test_ctrl_c_in_a_pipe_ends_it(file: Path) -> None:
    (their_in, mine), (answers_of, their_out) = os.pipe(), os.pipe()
    with (
        tempfile.TemporaryFile() as err,
        os.fdopen(mine, "w") as lines,
        os.fdopen(answers_of) as told,
    ):
        chat = surgery_commands().start(
            "chat", "demo", "--edit", file,
            stdin=their_in, stdout=their_out, stderr=err, environment=ENVIRONMENT,
        )  # fmt: skip
        os.close(their_in)
        os.close(their_out)
        print(PROMPTS[0], file=lines, flush=True)
        assert told.readline().startswith("base: ")  # flushed at once, not at the end
        chat.send_signal(signal.SIGINT)
        assert chat.wait() == 130
        expected = "surgery: interrupted; to continue, run: surgery chat demo --edit"
        assert expected in written(err)
