"""`surgery report` and `surgery compare`: what a run found, as a page and side by side."""

from pathlib import Path
from typing import Annotated

import typer

from modelsurgery.cli.options import Json, default_note
from modelsurgery.cli.output import console, print_content, print_json
from modelsurgery.edit.option_names import Direction

TERMINAL_LIMIT = 20
PAGE_LIMIT = 1000

RunDirectory = Annotated[
    Path, typer.Argument(metavar="directory", help="Directory of a finished run or evaluation.")
]


def report(
    directory: RunDirectory,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File to write." + default_note("report.html in the directory")
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write report.html, a self-contained page with all results of a run."""
    from modelsurgery.files.atomic import refuse_existing
    from modelsurgery.report.html import write_report

    if out is not None:
        refuse_existing(out)
    path = write_report(directory, out)
    print_content({"report": str(path), "size_bytes": path.stat().st_size}, as_json)


def compare(
    directory: RunDirectory,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="worse|changed|better|same", help="Show these pairs only. Repeatable."
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME",
            help="Prompt set, or sampled or greedy. Repeatable." + default_note("all"),
        ),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Show pairs with this text in the prompt or an answer."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Maximum number of pairs; 0 means all."
            + default_note(f"{TERMINAL_LIMIT}, or {PAGE_LIMIT} with --html"),
        ),
    ] = None,
    mask: Annotated[
        bool | None,
        typer.Option(
            "--mask/--show-offensive",
            help="Mask answers that show the behavior or could not be judged."
            + default_note("masked in the terminal, blurred in a page"),
        ),
    ] = None,
    direction: Annotated[
        Direction | None,
        typer.Option(
            help="Direction that counts as better." + default_note("the recipe's direction")
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a self-contained page to this file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show answers of the base and edited model side by side, worst regressions first."""
    from modelsurgery.files.atomic import refuse_existing
    from modelsurgery.report.comparing import print_pairs, read_pairs

    if html is not None:
        refuse_existing(html)
    shown = read_pairs(directory, direction)
    shown = shown.chosen(only=only or (), sets=sets or (), search=search)
    if mask or (mask is None and html is None and not as_json):
        shown = shown.masked()
    if html is not None:
        from modelsurgery.report.html import write_pairs

        write_pairs(shown.first(PAGE_LIMIT if limit is None else limit), html)
    if as_json:
        print_json(shown.first(limit).to_json())
    elif html is None:
        few = TERMINAL_LIMIT if limit is None else limit
        print_pairs(shown, console(), limit=few)
    else:
        print(f"the pairs are in {html}")
