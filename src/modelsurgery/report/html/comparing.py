"""Pairs of answers as one self-contained page, with the looks of `report.html`."""

from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from modelsurgery.files import write_text
from modelsurgery.report.comparing import Pair, Pairs, changed_words, summary
from modelsurgery.report.untrusted import printable


def write_page(shown: Pairs, path: Path) -> None:
    """Write the page; what the judge takes for the behavior is blurred until it is clicked."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("modelsurgery.report.html", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["marked"] = _marked
    environment.filters["printable"] = printable
    template = environment.get_template("compare.html.jinja")
    name = shown.directory.resolve().name
    write_text(path, template.render(name=name, summary=summary(shown), pairs=shown.pairs))


def _marked(pair: Pair) -> tuple[Markup, Markup]:
    """Both answers with the words marked that the other one has not."""
    base, edited = (
        Markup("").join(
            Markup("<mark>{}</mark>").format(text) if is_new and text.strip() else escape(text)
            for text, is_new in pieces
        )
        for pieces in changed_words(printable(pair.base), printable(pair.edited))
    )
    return base, edited
