"""`surgery chat` where it is typed: two columns on a terminal, plain lines in a pipe."""

import json
import math
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from modelsurgery.errors import RecipeError, SurgeryError, TextsError
from modelsurgery.evaluation.generation import Continuation
from modelsurgery.pipeline.conversation import Conversation, Exchange
from modelsurgery.report.untrusted import in_one_line, printable

NARROW_COLUMNS = 60  # below it the two sides stand above each other
LINES_AROUND = 6  # of the terminal that answers leave free while they are written
REFRESHES_PER_SECOND = 12
UNREADABLE = "\udcff"  # for a line whose bytes are no UTF-8
UNFINISHED = "\ufffd"  # what a character is shown as while some of its bytes are missing
LEAVING = ("/quit", "/exit", "/q")
WITH_VALUE = ("/strength", "/sample", "/seed")
WITHOUT_STATE = ("/again", "/help")  # they change nothing of how answers are made
HELP = """/strength X  the edit X times as strong: 0.5 is half of it, -1 turns it round
/off, /on    leave the edit out, take it back
/again       answer the last prompt once more, as things are set now
/sample T    sample at temperature T, 1 if left out
/seed N      sample with another seed; the same seed gives the same answer
/greedy      the most probable token each time
/reset       forget the conversation
/quit        leave, as Ctrl-D does; Ctrl-C stops an answer"""

Say = Callable[[str], None]


def chat_on_terminal(conversation: Conversation, console: Console) -> None:
    """Read prompts from a terminal until its end (Ctrl-D) or `/quit`.

    Raises:
        KeyboardInterrupt: Ctrl-C while no answer was being written.
    """
    import readline  # noqa: F401 - gives `input` its editing and the history of typed lines

    def say(line: str) -> None:
        console.print(Text(printable(line), style="dim"))

    say(f"{state(conversation)}; /help lists commands")
    while (line := _typed(console)) is not None and line.strip() not in LEAVING:
        try:
            prompt = follow(_readable(line), conversation, say)
            if prompt is not None:
                with _stopping(conversation):
                    _answer_in_columns(prompt, conversation, console)
        except SurgeryError as error:
            say(str(error))


def chat_in_pipe(conversation: Conversation, *, as_json: bool) -> None:
    """Answer each line of stdin until its end or `/quit`; what is no answer goes to stderr.

    A line is a command if its first word is one, and a prompt otherwise, whatever it begins with.

    Raises:
        SurgeryError: a prompt that cannot be answered, or a command's value that cannot be used.
        TextsError: a line that is not UTF-8; the lines before it were answered.
    """

    def say(line: str) -> None:
        print(printable(line), file=sys.stderr, flush=True)

    for line in _piped(sys.stdin.buffer):
        if line.strip() in LEAVING:
            return
        prompt = follow(line, conversation, say) if _is_command(line) else line
        if prompt is None or not prompt.strip():
            continue
        exchange = conversation.ask(prompt)
        if as_json:
            print(json.dumps(exchange.to_json(), ensure_ascii=False), flush=True)
        else:
            print(f"base: {in_one_line(exchange.base.text)}")
            print(f"edited: {in_one_line(exchange.edited.text)}", flush=True)


def _piped(lines: Iterable[bytes]) -> Iterator[str]:
    """Lines of a pipe, without their ends and without a byte order mark."""
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise TextsError(
                f"stdin, line {number}: not UTF-8 (byte {error.start} of it); expected UTF-8, "
                "convert the prompts"
            ) from error
        yield text.rstrip("\r\n")


def _is_command(line: str) -> bool:
    """Whether a line says a command that there is, with a value only where it takes one."""
    name, _, value = line.strip().partition(" ")
    return line.startswith("/") and (
        name in WITH_VALUE or (not value and name in (*_COMMANDS, *WITHOUT_STATE))
    )


def follow(line: str, conversation: Conversation, say: Say) -> str | None:
    """Follow a command; or give the prompt that a line is, or asks to be answered again.

    Args:
        line: what was typed.
        conversation: what commands change.
        say: is told what a command did.

    Raises:
        RecipeError: a value that a command cannot use.
    """
    if not line.startswith("/"):
        return line if line.strip() else None
    name, _, value = line.strip().partition(" ")
    if name == "/again":
        prompt = conversation.take_back()
        if prompt is None:
            say("there is nothing to answer again")
        return prompt
    if name == "/help":
        say(HELP)
    elif name in _COMMANDS:
        _COMMANDS[name](conversation, value.strip())
        say(state(conversation))
    else:
        say(f"no command {name[:40]}; there are /help /again {' '.join(_COMMANDS)} /quit")
    return None


def state(conversation: Conversation) -> str:
    """How answers are made now, in one line."""
    decoding = conversation.decoding
    how = (
        "greedy"
        if decoding.seed is None
        else f"sampled at temperature {decoding.temperature:g} with seed {decoding.seed}"
    )
    memory = "" if conversation.is_chat else ", each prompt is continued by itself"
    edit = f"edit × {conversation.strength:g}" if conversation.is_on else "edit off"
    return f"{edit}, {how}, {decoding.max_new_tokens} tokens at most{memory}"


def _set_strength(conversation: Conversation, value: str) -> None:
    conversation.set_strength(_number(value or "1", "/strength", "a factor like 0.5"))


def _switch(is_on: bool) -> Callable[[Conversation, str], None]:
    def switch(conversation: Conversation, _: str) -> None:
        conversation.is_on = is_on

    return switch


def _sample(conversation: Conversation, value: str) -> None:
    temperature = _number(value or "1", "/sample", "a temperature like 0.7")
    if not temperature > 0:
        raise RecipeError(f"/sample {value}; expected a temperature above 0, or take /greedy")
    old = conversation.decoding
    conversation.decoding = replace(old, temperature=temperature, seed=old.seed or 0)


def _seed(conversation: Conversation, value: str) -> None:
    if not value.isdecimal() or int(value) >= 1 << 32:
        raise RecipeError(f"/seed {value[:20]}; expected a whole number from 0 to {(1 << 32) - 1}")
    conversation.decoding = replace(conversation.decoding, seed=int(value))


def _greedy(conversation: Conversation, _: str) -> None:
    conversation.decoding = replace(conversation.decoding, seed=None)


def _reset(conversation: Conversation, _: str) -> None:
    conversation.reset()


def _number(value: str, command: str, expected: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RecipeError(f"{command} {value[:20]}; expected {expected}")
    return number


_COMMANDS: dict[str, Callable[[Conversation, str], None]] = {
    "/strength": _set_strength,
    "/off": _switch(False),
    "/on": _switch(True),
    "/sample": _sample,
    "/seed": _seed,
    "/greedy": _greedy,
    "/reset": _reset,
}


def _typed(console: Console) -> str | None:
    """A line that was typed; None at the end."""
    try:
        return input("> ")
    except UnicodeDecodeError:
        return UNREADABLE
    except EOFError:
        console.print()  # what comes next belongs on a line of its own
        return None
    except KeyboardInterrupt:
        console.print()
        raise


def _readable(line: str) -> str:
    """The same line, unless it holds bytes that are no text.

    Raises:
        RecipeError: it does.
    """
    if any("\ud800" <= character <= "\udfff" for character in line):  # as a C locale reads them
        raise RecipeError("that line is not UTF-8; expected UTF-8, set the terminal to it")
    return line


@contextmanager
def _stopping(conversation: Conversation) -> Iterator[None]:
    """Let Ctrl-C stop the answers and not the program; one more does as ever.

    The first one only leaves a word: broken off between two tokens, no row of the model is left
    half put back.
    """
    pressed: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)
        conversation.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _answer_in_columns(prompt: str, conversation: Conversation, console: Console) -> None:
    written: list[Exchange] = []

    def drawn() -> Group:
        rows = 2 if console.width < NARROW_COLUMNS else 1
        lines = max(1, (console.height - LINES_AROUND) // rows)
        return _columns(written[-1], conversation, console, lines) if written else Group("")

    with Live(
        console=console,
        get_renderable=drawn,
        refresh_per_second=REFRESHES_PER_SECOND,
        transient=True,
        redirect_stdout=False,
    ):
        exchange = conversation.ask(prompt, written.append)
    console.print(_columns(exchange, conversation, console))


def _columns(
    exchange: Exchange, conversation: Conversation, console: Console, lines: int | None = None
) -> Group:
    """Both answers beside each other; while they are written, their last lines only."""
    is_narrow = console.width < NARROW_COLUMNS
    width = console.width if is_narrow else (console.width - 3) // 2
    begun = "" if conversation.is_chat else exchange.prompt
    label = f"edited × {exchange.strength:g}" if exchange.strength else "edited, edit off"
    sides = []
    for name, style, said in (
        ("base", "bold red", exchange.base),
        (label, "bold green", exchange.edited),
    ):
        wrapped = _answer(begun, said).wrap(console, width)
        shown = Text("\n").join(wrapped[-lines:] if lines else wrapped)
        sides.append(Group(Text(name, style), shown))
    if is_narrow:
        answers: Table | Group = Group(*sides)
    else:
        answers = Table.grid(padding=(0, 3, 0, 0), pad_edge=False)
        for _ in sides:
            answers.add_column(width=width)
        answers.add_row(*sides)
    return Group(answers, Text(_footer(exchange, conversation), style="dim"))


def _answer(begun: str, said: Continuation) -> Text:
    """An answer behind what it continues and what was thought, which are paler."""
    text = Text(printable(begun), style="dim") if begun else Text()
    if said.thinking:
        text.append(printable(said.thinking) + "\n", "dim italic")
    return Text.assemble(text, (printable(said.text.rstrip(UNFINISHED)), "default"))


def _footer(exchange: Exchange, conversation: Conversation) -> str:
    tokens = exchange.base.tokens + exchange.edited.tokens
    parts = [f"{exchange.base.tokens} and {exchange.edited.tokens} tokens"]
    if exchange.seconds > 0:
        parts.append(f"{tokens / exchange.seconds:,.0f} tokens/s")
    if conversation.is_stopped:
        parts.append("stopped")
    if exchange.base.text == exchange.edited.text and tokens:
        parts.append("the same answer")
    return ", ".join(parts)
