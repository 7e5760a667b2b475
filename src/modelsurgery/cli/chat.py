"""`surgery chat`: two columns in a terminal, plain lines in a pipe."""

import json
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from modelsurgery.cli.options import (
    LOADING,
    Json,
    ModelArgument,
    Seed,
    chosen_layout,
    default_note,
    model_directory,
    option,
    with_options,
)
from modelsurgery.cli.output import using_a_model
from modelsurgery.errors import RecipeError, SurgeryError, TextsError
from modelsurgery.pipeline.evaluation_options import EvaluationOptions
from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.report.untrusted import in_one_line, printable

if TYPE_CHECKING:
    from modelsurgery.evaluation.generation import Continuation
    from modelsurgery.pipeline.conversation import Conversation, Exchange

NARROW_COLUMNS = 60  # below it the two sides stand above each other
LINES_AROUND = 6  # of the terminal that answers leave free while they are written
REFRESHES_PER_SECOND = 12
UNREADABLE = "\udcff"  # for a line whose bytes are no UTF-8
UNFINISHED = "\ufffd"  # what a character is shown as while some of its bytes are missing
LEAVING = ("/quit", "/exit", "/q")


@with_options(Recipe, ("chat_template", "now", "layout", *LOADING))
def chat(
    model: ModelArgument,
    edit: Annotated[list[Path], option("edits", EvaluationOptions)],
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="System prompt, for chat models.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum length of an answer, in tokens.")
    ] = 256,
    temperature: Annotated[
        float | None,
        typer.Option(help="Sample at this temperature." + default_note("greedy decoding")),
    ] = None,
    seed: Seed = 0,
    thinking: Annotated[
        bool, typer.Option("--thinking", help="Enable thinking mode if the model has one.")
    ] = False,
    *,
    as_json: Json = False,
    **loading: Any,
) -> None:
    """Chat with the base and edited model side by side. In a pipe, each line is a prompt.

    Commands such as /strength 0.5 change how answers are made; /help lists them.
    """
    if temperature is not None and not 0 < temperature < float("inf"):
        raise RecipeError(
            f"--temperature {temperature}; expected a number above 0, or leave it out for greedy"
        )
    with using_a_model() as progress:
        from modelsurgery.apply.compatibility import check_fits
        from modelsurgery.edit.edit_file import load_edits

        edits = load_edits(edit)
        directory, described = model_directory(model), chosen_layout(loading.pop("layout"))
        check_fits(directory, edits, described)
        from modelsurgery.evaluation.generation import Decoding
        from modelsurgery.model.loading import load_model
        from modelsurgery.pipeline.conversation import Conversation

        with progress("load model", 0):
            loaded = load_model(directory, layout=described, **loading)
        decoding = Decoding(
            max_new_tokens,
            None if temperature is None else seed,
            temperature or 1.0,
            chat=True,
            thinking=thinking,
        )
        conversation = Conversation(loaded, edits, decoding=decoding, system=system)
    if as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        chat_in_pipe(conversation, as_json=as_json)
    else:
        chat_on_terminal(conversation, Console(highlight=False))


def chat_on_terminal(conversation: "Conversation", console: Console) -> None:
    """Read prompts from a terminal until its end (Ctrl-D) or `/quit`.

    Raises:
        KeyboardInterrupt: Ctrl-C while no answer was being written.
    """
    import readline  # noqa: F401 - gives `input` its editing and the history of typed lines

    from modelsurgery.pipeline.conversation import follow, state

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


def chat_in_pipe(conversation: "Conversation", *, as_json: bool) -> None:
    """Answer each line of stdin until its end or `/quit`; what is no answer goes to stderr.

    A line is a command if its first word is one, and a prompt otherwise, whatever it begins with.

    Raises:
        SurgeryError: a prompt that cannot be answered, or a command's value that cannot be used.
        TextsError: a line that is not UTF-8; the lines before it were answered.
    """
    from modelsurgery.pipeline.conversation import follow, is_command

    def say(line: str) -> None:
        print(printable(line), file=sys.stderr, flush=True)

    for line in _piped(sys.stdin.buffer):
        if line.strip() in LEAVING:
            return
        prompt = follow(line, conversation, say) if is_command(line) else line
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
        raise RecipeError("that line is not UTF-8; set the terminal to UTF-8")
    return line


@contextmanager
def _stopping(conversation: "Conversation") -> Iterator[None]:
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


def _answer_in_columns(prompt: str, conversation: "Conversation", console: Console) -> None:
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
    exchange: "Exchange", conversation: "Conversation", console: Console, lines: int | None = None
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


def _answer(begun: str, said: "Continuation") -> Text:
    """An answer behind what it continues and what was thought, which are paler."""
    text = Text(printable(begun), style="dim") if begun else Text()
    if said.thinking:
        text.append(printable(said.thinking) + "\n", "dim italic")
    return Text.assemble(text, (printable(said.text.rstrip(UNFINISHED)), "default"))


def _footer(exchange: "Exchange", conversation: "Conversation") -> str:
    tokens = exchange.base.tokens + exchange.edited.tokens
    parts = [f"{exchange.base.tokens} and {exchange.edited.tokens} tokens"]
    if exchange.seconds > 0:
        parts.append(f"{tokens / exchange.seconds:,.0f} tokens/s")
    if conversation.is_stopped:
        parts.append("stopped")
    if exchange.base.text == exchange.edited.text and tokens:
        parts.append("the same answer")
    return ", ".join(parts)
