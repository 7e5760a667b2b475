"""`surgery behaviors`: the behaviors that are built in."""

from typing import Annotated

import typer

from modelsurgery.cli.options import Json
from modelsurgery.cli.output import print_content


def behaviors(
    name: Annotated[
        str | None,
        typer.Argument(help="Behavior to explain: a name, or the path of a YAML file."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the built-in behaviors, or explain one: texts, prompts, judge, published results."""
    from modelsurgery.data.behaviors import built_in_behaviors, describe_behavior
    from modelsurgery.data.behaviors.explaining import explained, listed

    if name is None:
        print_content({one.name: listed(one) for one in built_in_behaviors()}, as_json)
    else:
        print_content(explained(describe_behavior(name)), as_json)
