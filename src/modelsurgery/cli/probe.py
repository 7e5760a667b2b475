"""`surgery probe`: a linear probe of the hidden states of labeled texts."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from modelsurgery.cli.options import (
    COLUMNS,
    LOADING,
    Json,
    ModelArgument,
    Seed,
    model_directory,
    option,
    typed_values,
    with_options,
)
from modelsurgery.cli.output import print_content, using_a_model
from modelsurgery.edit.option_names import Fit
from modelsurgery.pipeline.recipe import Recipe

MODEL = ("chat_template", "now", *LOADING)


@with_options(Recipe, (*COLUMNS, *MODEL, "seed"))
def probe(
    model: ModelArgument,
    texts: Annotated[Path, option("texts", default="")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Probe file to write (.safetensors).")],
    layer: Annotated[int | None, option("layer", default="the last, after the final norm")] = None,
    fit: Annotated[Fit, option("fit", default="adam")] = "adam",
    *,
    seed: Seed = 0,
    as_json: Json = False,
    **typed: Any,
) -> None:
    """Train a linear probe on the hidden states of labeled texts."""
    with using_a_model() as progress:
        from modelsurgery.data.texts import load_texts
        from modelsurgery.edit.probe import save_probe
        from modelsurgery.files.atomic import refuse_existing
        from modelsurgery.model.hidden_states import extract_hidden_states
        from modelsurgery.model.loading import load_model
        from modelsurgery.model.probe_fitting import fit_probe_on_texts

        refuse_existing(out)
        found = load_texts(texts, **typed_values(typed, only=COLUMNS))
        split = found.split(seed=seed)
        with progress("load model", 0):
            loaded = load_model(model_directory(model), **typed_values(typed, only=MODEL))
        chosen = loaded.layer_count if layer is None else layer
        states = extract_hidden_states(
            loaded,
            [loaded.render(text) for text in (*split.train, *split.test)],
            [chosen],
            progress=progress,
        )
        with progress("fit probe", 0):
            fitted = fit_probe_on_texts(
                states.by_layer[chosen],
                split.train,
                split.test,
                layer=chosen,
                fit=fit,
                seed=seed,
            )
        save_probe(fitted, out)
    assert fitted.metrics is not None
    content = {"probe": str(out), "layer": chosen, "fit": fit, **asdict(fitted.metrics)}
    print_content(content, as_json)
