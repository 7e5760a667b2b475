"""Verbs that only show: the report of a run, the behaviors that are built in."""

from pathlib import Path
from typing import Annotated

import typer

from modelsurgery.cli.options import Json
from modelsurgery.cli.output import print_content


def report(
    directory: Annotated[Path, typer.Argument(help="Directory of a finished run or evaluation.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write [default: report.html in DIRECTORY]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write report.html: one page that opens anywhere, with figures, answers and the way back."""
    from modelsurgery.files.atomic import refuse_existing
    from modelsurgery.report.html import write_report

    if out is not None:
        refuse_existing(out)
    path = write_report(directory, out)
    print_content({"report": str(path), "size_bytes": path.stat().st_size}, as_json)


def behaviors(
    name: Annotated[str | None, typer.Argument(help="Explain this one, or a YAML file.")] = None,
    as_json: Json = False,
) -> None:
    """List the built-in behaviors, or explain one: texts, prompts, judge, published numbers."""
    from modelsurgery.data.behaviors import built_in_behaviors, describe_behavior
    from modelsurgery.data.behaviors.explaining import explained, listed

    if name is None:
        print_content({one.name: listed(one) for one in built_in_behaviors()}, as_json)
    else:
        print_content(explained(describe_behavior(name)), as_json)
