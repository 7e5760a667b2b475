"""`surgery edit`: an edit from labeled texts, or from a probe as the paper does it."""

from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer

from modelsurgery.cli.options import (
    COLUMNS,
    LOADING,
    Json,
    StoredModelArgument,
    chosen_layout,
    default_note,
    model_directory,
    option,
    typed_values,
    with_options,
)
from modelsurgery.cli.output import print_content, showing_progress, using_a_model
from modelsurgery.errors import RecipeError
from modelsurgery.pipeline.option import Panel
from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.rules.rule_names import DEFAULT_RULE

ROWS = 0.0465
# What each way to an edit takes; the rest stays as the library has it.
FOR_PROBE = ("rows", "layers", "alpha", "strength", "direction_source")
BUDGET = ("max_divergence", "max_perplexity_rise")
FOR_TEXTS = ("rule", "rows", "layers", "steps", "strength", *BUDGET, "seed")


@with_options(
    Recipe,
    "max_divergence max_perplexity_rise "
    "neutral text_column label_column "
    "rule toward weight rows layers steps strength alpha direction_source "
    "layout device max_memory offload dtype "
    "seed",
    defaults={
        "neutral": "held-out texts with label 0",
        "rule": DEFAULT_RULE,
        "rows": str(ROWS),
        "layers": "all",
        "steps": "1",
        "direction_source": "mean-difference, or W1 if the probe has none",
    },
)
def edit(
    model: StoredModelArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Edit file to write (.safetensors).")],
    texts: Annotated[
        list[Path] | None,
        option("texts", default="", more="Repeat for one edit against several behaviors."),
    ] = None,
    probe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Probe file to use instead of --texts; no model is loaded."
        ),
    ] = None,
    direction: Annotated[
        list[str] | None,  # typer knows no list of choices
        option(
            "direction",
            default="away",
            more="Repeat, once for each --texts, in the same order.",
        ),
    ] = None,
    *,
    toward: Annotated[
        bool,
        typer.Option("--toward", help="Edit toward the behavior.", rich_help_panel=Panel.EDIT),
    ] = False,
    weight: Annotated[
        list[float] | None,
        typer.Option(
            metavar="WEIGHT",
            help="How much a behavior counts. Repeat, once for each --texts, in the same order."
            + default_note("1"),
            rich_help_panel=Panel.EDIT,
        ),
    ] = None,
    as_json: Json = False,
    **typed: Any,
) -> None:
    """Make an edit from labeled texts or from a probe, without measuring it."""
    from modelsurgery.edit.edit_file import save_edit
    from modelsurgery.files.atomic import refuse_existing

    if bool(texts) == (probe is not None):
        raise RecipeError("give either --texts FILE or --probe FILE")
    refuse_existing(out)
    if probe is not None:
        for_texts = {
            "--rule": typed["rule"], "--neutral": typed["neutral"], "--weight": weight,
            "--direction": direction, "--steps": typed["steps"],
        }  # fmt: skip
        _refuse(for_texts, "needs --texts; it cannot be used with --probe")
        content, made = _from_probe(
            model,
            probe,
            toward=toward,
            layout=typed["layout"],
            **typed_values(typed, only=FOR_PROBE),
        )
    else:
        for_probe = {"--alpha": typed["alpha"], "--direction-source": typed["direction_source"]}
        _refuse(for_probe, "needs --probe; it cannot be used with --texts")
        assert texts is not None
        files = _by_behavior(texts)
        weights = _one_each("--weight", weight, files, 1.0)
        directions = _one_each("--direction", direction, files, "toward" if toward else "away")
        if toward and direction:
            raise RecipeError("give either --toward, for all --texts, or a --direction for each")
        content, made = _from_texts(
            model,
            files,
            directions,
            weights,
            typed["neutral"],
            columns=typed_values(typed, only=COLUMNS),
            layout=typed["layout"],
            loading=typed_values(typed, only=LOADING),
            **typed_values(typed, only=FOR_TEXTS),
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


def _refuse(options: dict[str, Any], why: str) -> None:
    """Refuse options, by name, that the other way to an edit takes."""
    for name, value in options.items():
        if value is not None and value != []:
            raise RecipeError(f"{name} {why}")


def _by_behavior(texts: list[Path]) -> dict[str, Path]:
    """Files of texts by the name of their behavior."""
    files: dict[str, Path] = {}
    for path in texts:
        name = path.stem
        if name in files:
            name = next(f"{name}-{n}" for n in count(2) if f"{name}-{n}" not in files)
        files[name] = path
    return files


def _one_each(
    option: str, given: list[Any] | None, files: dict[str, Path], usual: Any
) -> dict[str, Any]:
    """What was typed for each of the files, in the same order; else what is usual."""
    if given and len(given) != len(files):
        raise RecipeError(
            f"{len(files)} --texts and {len(given)} {option}; give one for each, in the same "
            "order, or none"
        )
    return dict(zip(files, given or [usual] * len(files), strict=True))


def _from_probe(
    model: str,
    probe: Path,
    *,
    toward: bool,
    layout: Path | None,
    rows: float | int = ROWS,
    layers: tuple[int, int] | None = None,
    alpha: float | None = None,
    strength: float | None = None,
    direction_source: str | None = None,
) -> tuple[dict[str, Any], Any]:
    """The paper's rule on the checkpoint on disk; loads no model."""
    from modelsurgery.checkpoint.directory import open_checkpoint
    from modelsurgery.checkpoint.layouts import find_gate_matrices
    from modelsurgery.edit.edit import make_edit
    from modelsurgery.edit.probe import load_probe
    from modelsurgery.edit.region import score_rows, select_region
    from modelsurgery.files.atomic import sha256_file
    from modelsurgery.files.provenance import Provenance

    checkpoint = open_checkpoint(model_directory(model))
    described = chosen_layout(layout)
    loaded = load_probe(probe)
    source = direction_source or loaded.default_source
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
        origin=Provenance(inputs={"probe": sha256_file(probe)}, settings=settings),
        layout=described,
    )
    made = (made.scaled(-1) if toward else made).bound_to(checkpoint, gates)
    return {"highest_cosine": max(float(one.max()) for one in region.scores)}, made


def _from_texts(
    model: str,
    files: dict[str, Path],
    direction: Any,
    weights: Any,
    neutral: Path | None,
    *,
    columns: dict[str, str],
    layout: Path | None,
    loading: dict[str, Any],
    rule: Any = DEFAULT_RULE,
    **settings: Any,
) -> tuple[dict[str, Any], Any]:
    """An edit that a rule makes; the model is loaded and reads the texts."""
    from modelsurgery.data.texts import load_lines, load_texts
    from modelsurgery.edit.explanation import explain
    from modelsurgery.model.loading import load_model
    from modelsurgery.search.edit_fitting import fit_edit

    labeled: Any = {name: load_texts(path, **columns) for name, path in files.items()}
    if len(labeled) == 1:  # needs no name
        (labeled,), (direction,), weights = labeled.values(), direction.values(), None
    clean = None if neutral is None else load_lines(neutral)
    with using_a_model() as progress:
        with progress("load model", 0):
            described = chosen_layout(layout)
            loaded = load_model(model_directory(model), layout=described, **loading)
        made = fit_edit(
            loaded,
            labeled,
            clean,
            rule=rule,
            direction=direction,
            weights=weights,
            progress=progress,
            **settings,
        )
    explained = explain(made)
    if explained is None:
        return {"rule": rule}, made
    told = explained.to_json()
    return {"rule": rule, "predicted": told["predicted"], "measured": told["measured"]}, made
