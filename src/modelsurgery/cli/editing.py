"""`surgery edit`: an edit from labelled texts, or from a probe as the paper does it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from modelsurgery.cli.options import (
    Alpha,
    Device,
    DType,
    Json,
    LabelColumn,
    Layers,
    LayoutFile,
    ModelArgument,
    OwnNeutral,
    Rows,
    Rule,
    Seed,
    Strength,
    TextColumn,
    chosen_layout,
    layer_window,
    model_directory,
    percentage,
    row_share,
)
from modelsurgery.cli.output import print_content, showing_progress
from modelsurgery.errors import RecipeError

MOST_DIVERGENCE, MOST_PERPLEXITY = 0.02, "+2%"  # unless others are given
SOURCES = (
    "With --probe: mean-difference, W1 (the authors') or W1-W0. [default: mean-difference, or W1 "
    "where the probe holds none]"
)


def edit(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="The edit to write, .safetensors.")],
    texts: Annotated[
        Path | None, typer.Option(help="Labelled texts: the model is loaded and reads them.")
    ] = None,
    probe: Annotated[
        Path | None, typer.Option(help="A probe in place of texts; no model is loaded.")
    ] = None,
    neutral: OwnNeutral = None,
    rule: Rule = None,
    toward: Annotated[bool, typer.Option(help="Toward the behavior, not away.")] = False,
    rows: Rows = "0.0465",
    layers: Layers = None,
    strength: Strength = None,
    max_divergence: Annotated[
        float | None,
        typer.Option(help="With --texts: mean KL from the base at most. [default: 0.02]"),
    ] = None,
    max_perplexity: Annotated[
        str | None, typer.Option(help="With --texts: its rise at most. [default: +2%]")
    ] = None,
    alpha: Alpha = None,
    direction_source: Annotated[str | None, typer.Option(help=SOURCES)] = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    layout: LayoutFile = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Make an edit from labelled texts, or from a probe; nothing is generated or measured."""
    from modelsurgery.edit.edit_file import save_edit
    from modelsurgery.files.atomic import refuse_existing

    if (texts is None) == (probe is None):
        raise RecipeError("give either --texts FILE or --probe FILE, and not both")
    refuse_existing(out)
    share = row_share(rows)
    assert share is not None  # the option has a default
    if probe is not None:
        for name, value in (("--rule", rule), ("--neutral", neutral)):
            if value is not None:
                raise RecipeError(f"{name} belongs to --texts; leave it out with --probe")
        content, made = _from_probe(
            model, probe, share, layer_window(layers), alpha, strength, direction_source, toward,
            layout,
        )  # fmt: skip
    else:
        for name, given in (("--alpha", alpha), ("--direction-source", direction_source)):
            if given is not None:
                raise RecipeError(f"{name} belongs to --probe; leave it out with --texts")
        assert texts is not None
        content, made = _from_texts(
            model,
            texts,
            neutral,
            (text_column, label_column),
            layout=layout,
            device=device,
            dtype=dtype,
            rule=rule,
            direction="toward" if toward else "away",
            rows=share,
            layers=layer_window(layers),
            strength=strength,
            max_divergence=MOST_DIVERGENCE if max_divergence is None else max_divergence,
            max_perplexity_rise=percentage(max_perplexity or MOST_PERPLEXITY),
            seed=seed,
        )
    save_edit(made, out)
    shown = {
        "edit": str(out),
        "rows": made.row_count,
        "rows_found": made.candidate_rows,
        "tensors": len({update.tensor for update in made.updates}),
        "alpha": made.alpha,
        "strength": made.strength,
    }
    print_content(shown | content, as_json)


def _from_probe(
    model: str,
    probe: Path,
    rows: float | int,
    layers: tuple[int, int] | None,
    alpha: float | None,
    strength: float | None,
    source: str | None,
    toward: bool,
    layout: Path | None,
) -> tuple[dict[str, Any], Any]:
    """The paper's rule on the checkpoint on disk; loads no model."""
    from modelsurgery.checkpoint.directory import open_checkpoint
    from modelsurgery.checkpoint.layouts import find_gate_matrices
    from modelsurgery.edit.edit import make_edit
    from modelsurgery.edit.probe import load_probe
    from modelsurgery.edit.region import score_rows, select_region
    from modelsurgery.files.atomic import sha256_file
    from modelsurgery.files.provenance import provenance

    checkpoint = open_checkpoint(model_directory(model))
    described = chosen_layout(layout)
    loaded = load_probe(probe)
    source = source or loaded.default_rule
    direction = loaded.direction(source)
    with showing_progress() as progress:
        gates = find_gate_matrices(checkpoint, described)
        scores = score_rows(checkpoint, gates, direction[None], progress=progress)
    region = select_region(scores, rows, layers=layers)
    settings = {
        "rule": "paper",
        "direction_source": source,
        "rows": region.row_count,
        "layers": layers,
    }
    made = make_edit(
        region,
        direction,
        alpha=alpha,
        strength=strength,
        origin=provenance(inputs={"probe": sha256_file(probe)}, settings=settings),
        layout=described,
    )
    made = (made.scaled(-1) if toward else made).bound_to(checkpoint, gates)
    return {"highest_cosine": max(float(one.max()) for one in region.scores)}, made


def _from_texts(
    model: str,
    texts: Path,
    neutral: Path | None,
    columns: tuple[str, str],
    *,
    layout: Path | None,
    device: str | None,
    dtype: str | None,
    rule: str | None,
    **settings: Any,
) -> tuple[dict[str, Any], Any]:
    """An edit that a rule makes; the model is loaded and reads the texts."""
    from modelsurgery.data.texts import load_lines, load_texts
    from modelsurgery.model.loading import load_model
    from modelsurgery.rules.proposal import DEFAULT_RULE
    from modelsurgery.search.fitting import fit_edit

    labelled = load_texts(texts, text_column=columns[0], label_column=columns[1])
    clean = None if neutral is None else load_lines(neutral)
    chosen: Any = rule or DEFAULT_RULE
    with showing_progress() as progress:
        with progress("load model", 0):
            described = chosen_layout(layout)
            loaded = load_model(
                model_directory(model), device=device, dtype=dtype, layout=described
            )
        made = fit_edit(loaded, labelled, clean, rule=chosen, progress=progress, **settings)
    return {"rule": chosen}, made
