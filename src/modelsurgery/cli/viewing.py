"""Verbs that show what a run left."""

from pathlib import Path
from typing import Annotated

import typer

from modelsurgery.cli.options import Json
from modelsurgery.cli.output import print_content


def report(
    directory: Annotated[Path, typer.Argument(help="Directory of a finished run or evaluation.")],
    as_json: Json = False,
) -> None:
    """Write report.html: one page that opens anywhere, with figures, answers and the way back."""
    from modelsurgery.report.html import write_report

    path = write_report(directory)
    print_content({"report": str(path), "size_bytes": path.stat().st_size}, as_json)
