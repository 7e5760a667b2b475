"""`surgery probe`: a linear probe of the hidden states of labeled texts."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from modelsurgery.cli.options import (
    DEFAULTS,
    Device,
    DType,
    Json,
    LabelColumn,
    MaxMemory,
    ModelArgument,
    Now,
    Offload,
    ProbeFit,
    ProbeLayer,
    Seed,
    TemplateName,
    TextColumn,
    Texts,
    model_directory,
)
from modelsurgery.cli.output import print_content, using_a_model


def probe(
    model: ModelArgument,
    texts: Texts,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Probe file to write (.safetensors).")],
    layer: ProbeLayer = None,
    fit: ProbeFit = "adam",
    text_column: TextColumn = DEFAULTS.text_column,
    label_column: LabelColumn = DEFAULTS.label_column,
    chat_template: TemplateName = None,
    now: Now = None,
    seed: Seed = DEFAULTS.seed,
    device: Device = None,
    max_memory: MaxMemory = None,
    offload: Offload = None,
    dtype: DType = None,
    as_json: Json = False,
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
        found = load_texts(texts, text_column=text_column, label_column=label_column)
        split = found.split(seed=seed)
        with progress("load model", 0):
            loaded = load_model(
                model_directory(model),
                device=device,
                max_memory=max_memory,
                offload=offload,
                dtype=dtype,
                chat_template=chat_template,
                now=now,
            )
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
