"""Pairs of answers as one self-contained page, with the looks of `report.html`."""

from pathlib import Path

from modelsurgery.files.atomic import write_text
from modelsurgery.report.comparing import Pairs, summary
from modelsurgery.report.html.templates import rendered


def write_page(shown: Pairs, path: Path) -> None:
    """Write the page; what the judge takes for the behavior is blurred until it is clicked."""
    name = shown.directory.resolve().name
    write_text(
        path,
        rendered("compare.html.jinja", name=name, summary=summary(shown), pairs=shown.pairs),
    )
