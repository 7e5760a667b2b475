"""`surgery edit`: an edit from labeled texts, or from a probe as the paper does it."""

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer

from modelsurgery.cli.options import (
    DEFAULTS,
    Alpha,
    Device,
    DType,
    Json,
    LabelColumn,
    Layers,
    LayoutFile,
    MaxDivergence,
    MaxMemory,
    MaxPerplexity,
    Offload,
    Rows,
    Seed,
    StoredModelArgument,
    Strength,
    TextColumn,
    chosen_layout,
    default_note,
    model_directory,
    option,
)
from modelsurgery.cli.output import print_content, showing_progress, using_a_model
from modelsurgery.edit.choices import DirectionSource
from modelsurgery.errors import RecipeError
from modelsurgery.pipeline.option import Panel, layer_window, percentage, row_share
from modelsurgery.rules.choices import DEFAULT_RULE, Rule

SourceOption = Annotated[
    DirectionSource | None,
    option("direction_source", default="mean-difference, or W1 if the probe has none"),
]
SeveralTexts = Annotated[
    list[Path] | None,
    option("texts", default="", more="Repeat for one edit against several behaviors."),
]
Directions = Annotated[
    list[str] | None,  # typer knows no list of choices
    option("direction", default="away", more="Repeat, once for each --texts, in the same order."),
]
Weights = Annotated[
    list[float] | None,
    typer.Option(
        "--weight",
        metavar="WEIGHT",
        help="How much a behavior counts. Repeat, once for each --texts, in the same order."
        + default_note("1"),
        rich_help_panel=str(Panel.EDIT),
        show_default=False,
    ),
]


def edit(
    model: StoredModelArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Edit file to write (.safetensors).")],
    texts: SeveralTexts = None,
    probe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Probe file to use instead of --texts; no model is loaded."
        ),
    ] = None,
    neutral: Annotated[
        Path | None, option("neutral", default="held-out texts with label 0")
    ] = None,
    rule: Annotated[Rule | None, option("rule", default=DEFAULT_RULE)] = None,
    toward: Annotated[
        bool,
        typer.Option("--toward", help="Edit toward the behavior.", rich_help_panel=str(Panel.EDIT)),
    ] = False,
    direction: Directions = None,
    weight: Weights = None,
    rows: Rows = "0.0465",
    layers: Layers = None,
    steps: Annotated[int | None, option("steps", default="1")] = None,
    strength: Strength = None,
    max_divergence: MaxDivergence = None,
    max_perplexity: MaxPerplexity = None,
    alpha: Alpha = None,
    direction_source: SourceOption = None,
    text_column: TextColumn = DEFAULTS.text_column,
    label_column: LabelColumn = DEFAULTS.label_column,
    layout: LayoutFile = None,
    seed: Seed = DEFAULTS.seed,
    device: Device = None,
    max_memory: MaxMemory = None,
    offload: Offload = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Make an edit from labeled texts or from a probe, without measuring it."""
    from modelsurgery.edit.edit_file import save_edit
    from modelsurgery.files.atomic import refuse_existing

    if bool(texts) == (probe is not None):
        raise RecipeError("give either --texts FILE or --probe FILE")
    refuse_existing(out)
    share, window = row_share(rows), layer_window(layers) if layers else None
    for_texts = {
        "--rule": rule, "--neutral": neutral, "--weight": weight,
        "--direction": direction, "--steps": steps,
    }  # fmt: skip
    for_probe = {"--alpha": alpha, "--direction-source": direction_source}
    _refuse_others(for_probe if probe is None else for_texts, is_probe=probe is not None)
    if probe is not None:
        content, made = _from_probe(
            model, probe, share, window, alpha, strength, direction_source, toward,
            layout,
        )  # fmt: skip
    else:
        assert texts is not None
        content, made = _from_texts(
            model,
            _Asked.of(texts, weight or [], direction or [], toward=toward),
            neutral,
            (text_column, label_column),
            layout=layout,
            load={"device": device, "max_memory": max_memory, "offload": offload, "dtype": dtype},
            rule=rule,
            rows=share,
            layers=window,
            steps=1 if steps is None else steps,
            strength=strength,
            max_divergence=DEFAULTS.max_divergence if max_divergence is None else max_divergence,
            max_perplexity_rise=DEFAULTS.max_perplexity_rise
            if max_perplexity is None
            else percentage(max_perplexity),
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


def _refuse_others(options: dict[str, Any], *, is_probe: bool) -> None:
    """Refuse options, by name, that the other way to an edit takes."""
    needed, given = ("--texts", "--probe") if is_probe else ("--probe", "--texts")
    for name, value in options.items():
        if value is not None and value != []:
            raise RecipeError(f"{name} needs {needed}; it cannot be used with {given}")


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
    source = source or loaded.default_source
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


@dataclass(frozen=True)
class _Asked:
    """Files of texts by the name of their behavior, and what is asked for with each.

    Attributes:
        files: by name.
        directions: of each, in the same order.
        weights: of each, in the same order.
    """

    files: dict[str, Path]
    directions: tuple[str, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(
        cls, texts: list[Path], weights: list[float], directions: list[str], *, toward: bool
    ) -> "_Asked":
        """What was typed, checked."""
        for name, some in (("--weight", weights), ("--direction", directions)):
            if some and len(some) != len(texts):
                raise RecipeError(
                    f"{len(texts)} --texts and {len(some)} {name}; give one for each, in the same "
                    "order, or none"
                )
        if toward and directions:
            raise RecipeError("give either --toward, for all --texts, or a --direction for each")
        files: dict[str, Path] = {}
        for path in texts:
            name = path.stem
            if name in files:
                name = next(f"{name}-{n}" for n in count(2) if f"{name}-{n}" not in files)
            files[name] = path
        usual = ["toward" if toward else "away"] * len(texts)
        return cls(files, tuple(directions or usual), tuple(weights or [1.0] * len(texts)))


def _from_texts(
    model: str,
    asked: _Asked,
    neutral: Path | None,
    columns: tuple[str, str],
    *,
    layout: Path | None,
    load: dict[str, Any],
    rule: str | None,
    **settings: Any,
) -> tuple[dict[str, Any], Any]:
    """An edit that a rule makes; the model is loaded and reads the texts."""
    from modelsurgery.data.texts import load_lines, load_texts
    from modelsurgery.edit.explanation import explain
    from modelsurgery.model.loading import load_model
    from modelsurgery.search.edit_fitting import fit_edit

    labeled: Any = {
        name: load_texts(path, text_column=columns[0], label_column=columns[1])
        for name, path in asked.files.items()
    }
    direction: Any = dict(zip(asked.files, asked.directions, strict=True))
    weights: Any = dict(zip(asked.files, asked.weights, strict=True))
    if len(labeled) == 1:  # needs no name
        (labeled,), (direction,), weights = labeled.values(), direction.values(), None
    clean = None if neutral is None else load_lines(neutral)
    chosen: Any = rule or DEFAULT_RULE
    with using_a_model() as progress:
        with progress("load model", 0):
            described = chosen_layout(layout)
            loaded = load_model(model_directory(model), layout=described, **load)
        made = fit_edit(
            loaded,
            labeled,
            clean,
            rule=chosen,
            direction=direction,
            weights=weights,
            progress=progress,
            **settings,
        )
    explained = explain(made)
    if explained is None:
        return {"rule": chosen}, made
    told = explained.to_json()
    return {"rule": chosen, "predicted": told["predicted"], "measured": told["measured"]}, made
