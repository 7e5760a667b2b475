"""`python -m tools.command_reference` prints docs/commands.md, read off the program itself.

Names, defaults and limits are those that `--help` shows, so that the two cannot differ; a test says
whether the file is the one that this prints.
"""

from collections.abc import Iterator

import typer
from rich.text import Text
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from modelsurgery.cli import app
from modelsurgery.data.behaviors.roots import ROOT_VARIABLE
from modelsurgery.errors import SurgeryError
from modelsurgery.evaluation.generation.serving import KEY_VARIABLE as SERVER_KEY_VARIABLE
from modelsurgery.evaluation.judges.chat import KEY_VARIABLE
from modelsurgery.pipeline.option import Panel

TyperParameter = TyperArgument | TyperOption

HEADER = """\
# Commands

<!-- Printed by `python -m tools.command_reference > docs/commands.md`; change the program. -->

Results go to standard output, progress and errors to standard error. An error is one line: what is
wrong, what was expected, what to do. `--json` prints one JSON object and nothing else; its keys are
those of [formats.md](formats.md). MODEL is a directory with `config.json` and safetensors files, an
ID on the Hub, the name of a model that `surgery fetch` downloaded, or `demo`, the model that
ships with the package. "Repeatable" options may be given several times.
"""
MEANINGS = {
    0: "done",
    1: "failed",
    2: "wrong input, or no such command or option",
    3: "no edit within the damage budget",
    4: "nothing changed, or a check failed",
    5: "the behavior did not change as asked, or the texts do not say what to change",
    130: "interrupted; the message is the command that resumes the run",
}
VARIABLES = {
    ROOT_VARIABLE: "local copies of public data sets, or `hub`, if `--data` is not given",
    "HF_HUB_OFFLINE": "1: do not contact the Hub; `surgery fetch` uses pip only",
    "XDG_CACHE_HOME": "directory where `surgery fetch` keeps models, in `modelsurgery` [~/.cache]",
    "HF_HOME": "directory where the Hub's libraries keep downloads",
    KEY_VARIABLE: "API key for `--judge chat:…`, if its server needs one",
    SERVER_KEY_VARIABLE: "API key for `--server`, if it needs one",
    "NO_COLOR": "progress without colors",
}


def reference() -> str:
    """All verbs with their arguments and options, exit codes and variables, as Markdown."""
    program = get_command(app)
    assert isinstance(program, TyperGroup)
    context = typer.Context(program, info_name="surgery")
    verbs = {
        name: verb
        for name, verb in program.commands.items()
        if isinstance(verb, TyperCommand) and not verb.hidden
    }
    parts = [HEADER, _overview(verbs)]
    for name, verb in verbs.items():
        parts.append(_verb(verb, typer.Context(verb, parent=context, info_name=name)))
    return "\n".join([*parts, _exit_codes(), _variables()])


def _overview(verbs: dict[str, TyperCommand]) -> str:
    lines = [
        f"| [`surgery {name}`](#surgery-{name}) | {_cell(_first_line(verb))} |"
        for name, verb in verbs.items()
    ]
    return "\n".join(["| verb | what it does |", "|---|---|", *lines, ""])


def _verb(verb: TyperCommand, context: typer.Context) -> str:
    """One verb: how it is called, what it does, its arguments and options."""
    usage = " ".join(["surgery", str(context.info_name), *verb.collect_usage_pieces(context)])
    lines = [f"## surgery {context.info_name}", "", f"`{usage}`", ""]
    lines += [(verb.help or "").strip(), "", "| argument, option | meaning |", "|---|---|"]
    for panel, parameters in _panels(verb, context).items():
        if panel:
            lines.append(f"| **{panel}** | |")
        for parameter in parameters:
            parameter.help = Text.from_markup(parameter.help or "").plain
            named, meaning = parameter.get_help_record(context) or ("", "")
            lines.append(f"| `{_cell(named)}` | {_cell(meaning)} |")
    return "\n".join([*lines, ""])


def _panels(verb: TyperCommand, context: typer.Context) -> dict[str, list[TyperParameter]]:
    """Arguments and options by the panel of `--help` that shows them; the first has no name."""
    panels: dict[str, list[TyperParameter]] = {"": []}
    for parameter in verb.get_params(context):
        assert isinstance(parameter, TyperArgument | TyperOption)
        if "--help" not in parameter.opts:
            panel = parameter.rich_help_panel or ""
            panels.setdefault("" if panel == Panel.EVERYDAY else panel, []).append(parameter)
    return panels


def _exit_codes() -> str:
    """What `surgery` ends with, and the errors behind it."""
    errors: dict[int, list[str]] = {}
    for kind in _kinds(SurgeryError):
        errors.setdefault(kind.exit_code, []).append(f"`{kind.__name__}`")
    lines = ["## Exit codes", "", "| code | meaning | errors |", "|---|---|---|"]
    for code, meaning in MEANINGS.items():
        lines.append(f"| {code} | {meaning} | {', '.join(errors.pop(code, []))} |")
    if errors:
        raise ValueError(f"exit codes without a meaning: {errors}; add them to MEANINGS")
    return "\n".join([*lines, ""])


def _variables() -> str:
    lines = [f"| `{name}` | {meaning} |" for name, meaning in VARIABLES.items()]
    return "\n".join(["## Variables", "", "| variable | meaning |", "|---|---|", *lines, ""])


def _kinds(kind: type[SurgeryError]) -> Iterator[type[SurgeryError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from _kinds(narrower)


def _first_line(verb: TyperCommand) -> str:
    return (verb.help or "").strip().split("\n\n")[0]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
