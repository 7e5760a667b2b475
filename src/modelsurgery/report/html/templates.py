"""Filling templates with what strangers wrote: escaped, and without control characters."""

from typing import Any

import jinja2
from markupsafe import Markup

from modelsurgery.report.html.differences import marked, shown
from modelsurgery.report.html.wording import signed
from modelsurgery.report.masking import shown_token
from modelsurgery.report.untrusted import printable
from modelsurgery.results.tables import PAGE


def rendered(template: str, **values: Any) -> str:
    """A template of this package, filled.

    Every value is escaped for HTML unless it is markup; control characters and changes of writing
    direction are taken out.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("modelsurgery.report.html", "."),
        autoescape=True,
        finalize=_harmless,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["marked"] = lambda pair: marked(pair.base, pair.edited)
    environment.filters["marked_beginning"] = lambda pair: marked(
        shown(pair.base), shown(pair.edited)
    )
    environment.filters["shown"] = shown
    environment.filters["token"] = shown_token
    environment.filters["lines"] = lambda table: zip(table.rows, table.lines(PAGE), strict=True)
    environment.filters["signed"] = signed
    environment.filters["amount"] = lambda value: signed(value, 3).removeprefix("+")
    return environment.get_template(template).render(**values)


def _harmless(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
