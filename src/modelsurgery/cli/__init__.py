"""`surgery`: parse, one library call, print.

Results go to stdout (`--json` on every verb), progress and errors to stderr. Heavy imports are
inside the commands, so that `--help` answers at once.
"""

import logging
import os
import shlex
import sys

import typer

from modelsurgery.cli import (
    apply,
    behaviors,
    chat,
    edit,
    evaluate,
    export,
    fetch,
    inspect,
    probe,
    report,
    rivals,
    run,
)
from modelsurgery.errors import SurgeryError
from modelsurgery.files.passwords import without_passwords
from modelsurgery.report.untrusted import printable

# Read by those libraries when they are imported, which is later, inside the commands.
ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}

VERBS = {
    "Make and measure edits": (
        run.run,
        run.tune,
        run.worker,
        probe.probe,
        edit.edit,
        evaluate.evaluate,
    ),
    "Compare methods": (rivals.rivals, rivals.ablations),
    "Look at results": (report.compare, report.report, chat.chat, inspect.inspect),
    "Apply edits": (apply.plan, apply.apply, export.export, apply.undo, apply.verify, apply.diff),
    "Models and behaviors": (fetch.fetch, behaviors.behaviors),
}

app = typer.Typer(
    name="surgery",
    help="Change how a language model behaves by editing a few of its weights.",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for panel, verbs in VERBS.items():
    for verb in verbs:
        app.command(rich_help_panel=panel)(verb)


class _Once(logging.Filter):
    """Lets each message through once: texts are loaded, and told of, more than once in a run."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = message not in self._told
        self._told.add(message)
        return is_new


class _Printable(logging.Formatter):
    """Messages without what names in them could do to a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def main() -> None:
    """Run `surgery`; errors become one line on stderr and an exit code."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_Once())
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        # Typer gives back the code of what ended early: 0 after --help, 130 after Ctrl-C.
        code = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
    except SurgeryError as error:
        sys.exit(_fail(str(error), error.exit_code))
    except typer.TyperException as error:
        # Typer 0.29 lets pydantic check values, and keeps its prefix.
        problem = error.format_message().replace("Value error, ", "").rstrip(".")
        sys.exit(_fail(f"{problem}; see `surgery --help`", error.exit_code))
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # what no check at the border foresaw: rights, a failing disk
        sys.exit(_fail(_of_the_system(error), 1))
    if code == 130:
        resume = shlex.join(["surgery", *sys.argv[1:]])
        sys.exit(_fail(f"interrupted; to continue, run: {resume}", code))


def _of_the_system(error: OSError) -> str:
    """What the operating system says, without its number."""
    if error.filename is None or error.strerror is None:
        return str(error)
    advice = "; check its owner and permissions" if isinstance(error, PermissionError) else ""
    return f"{error.filename}: {error.strerror.lower()}{advice}"


def _fail(message: str, code: int) -> int:
    # Names from a stranger's file may hold line breaks and escape sequences of terminals.
    line = without_passwords(printable(" ".join(message.split())))
    print(f"surgery: {line}", file=sys.stderr)
    return code
