"""`surgery`: parse, one library call, print.

Results go to stdout (`--json` on every verb), progress and errors to stderr. Heavy imports are
inside the commands, so that `--help` answers at once.
"""

import json
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from modelsurgery.errors import DamageBudgetError, RecipeError, SurgeryError

if TYPE_CHECKING:
    from modelsurgery.probe import Fit
    from modelsurgery.progress import Progress

app = typer.Typer(
    name="surgery",
    help="Change how a language model behaves by editing a few of its weights.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# Read by those libraries when they are imported, which is later, inside the commands.
ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ModelArgument = Annotated[str, typer.Argument(help="Model directory or id of the Hub.")]
TextColumn = Annotated[str, typer.Option(help="Column with the text.")]
LabelColumn = Annotated[str, typer.Option(help="Column with the label: 1 shows the behavior.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, … [default: a GPU if there is one]")]
DType = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")]
FitOption = Annotated[str, typer.Option(help="adam (the paper's), logistic or mean-difference.")]
Rule = Annotated[str | None, typer.Option(help="W1 (the paper's), W1-W0 or mean-difference.")]
Rows = Annotated[str | None, typer.Option(help="Gate rows: a share (0.0465) or a count (16384).")]
Layers = Annotated[str | None, typer.Option(help="Layers to edit, 1..L, as 8-24 or 8.")]
Alpha = Annotated[float | None, typer.Option(help="The paper's α: multiplies the direction.")]
Strength = Annotated[float | None, typer.Option(help="α in portable units.")]


def main() -> None:
    """Run `surgery`; errors become one line on stderr and an exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        # Typer gives back the code of what ended early: 0 after --help, 130 after Ctrl-C.
        code = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
    except SurgeryError as error:
        sys.exit(_fail(str(error), error.exit_code))
    except typer.TyperException as error:
        problem = error.format_message().rstrip(".")
        sys.exit(_fail(f"{problem}; see `surgery --help`", error.exit_code))
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # what no check at the border foresaw: rights, a failing disk
        sys.exit(_fail(str(error), 1))
    if code == 130:
        resume = shlex.join(["surgery", *sys.argv[1:]])
        sys.exit(_fail(f"interrupted; to go on: {resume}", code))


def _fail(message: str, code: int) -> int:
    # Names from a stranger's file may hold line breaks and escape sequences of terminals.
    line = "".join(c if c.isprintable() else " " for c in " ".join(message.split()))
    print(f"surgery: {line}", file=sys.stderr)
    return code


@app.command()
def run(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe, YAML.")] = None,
    model: Annotated[str | None, typer.Option(help="Model directory or id of the Hub.")] = None,
    behavior: Annotated[str | None, typer.Option(help="Built-in name or YAML file.")] = None,
    texts: Annotated[Path | None, typer.Option(help="Labelled texts of your own.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Held-out prompts.")] = None,
    neutral: Annotated[Path | None, typer.Option(help="Neutral text for the damage.")] = None,
    text_column: TextColumn | None = None,
    label_column: LabelColumn | None = None,
    direction: Annotated[str | None, typer.Option(help="away (default) or toward.")] = None,
    max_perplexity: Annotated[str | None, typer.Option(help="Damage budget, as +5%.")] = None,
    fit: FitOption | None = None,
    layer: Annotated[int | None, typer.Option(help="Layer that the probe reads, 1..L.")] = None,
    rule: Rule = None,
    rows: Rows = None,
    layers: Layers = None,
    alpha: Alpha = None,
    strength: Strength = None,
    samples: Annotated[int | None, typer.Option(help="Sampled continuations a prompt.")] = None,
    prompt_count: Annotated[int | None, typer.Option(help="Held-out prompts at most.")] = None,
    seed: Seed | None = None,
    device: Device = None,
    dtype: DType = None,
    out: Annotated[Path | None, typer.Option(help="Run directory.")] = None,
    as_json: Json = False,
) -> None:
    """Perform a whole surgery and measure it; with nothing given, on the embedded model."""
    from modelsurgery.recipe import Recipe, run_recipe
    from modelsurgery.report.terminal import print_results
    from modelsurgery.schema import load_yaml, parse

    given = {
        "model": model,
        "behavior": behavior,
        "texts": texts,
        "prompts": prompts,
        "neutral": neutral,
        "text_column": text_column,
        "label_column": label_column,
        "direction": direction,
        "fit": fit,
        "layer": layer,
        "direction_rule": rule,
        "rows": _rows(rows),
        "layers": _layers(layers),
        "alpha": alpha,
        "strength": strength,
        "samples": samples,
        "prompt_count": prompt_count,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "out": out,
        "max_perplexity_rise": _percent(max_perplexity),
    }
    base = load_yaml(recipe, Recipe).model_dump(exclude_unset=True) if recipe else {}
    options = {key: value for key, value in given.items() if value is not None}
    chosen = parse({**base, **options}, Recipe, "options")
    with _progress() as progress:
        result = run_recipe(chosen, progress=progress)
    content = result.to_json()
    if as_json:
        _print_json(content)
    else:
        print_results(content, Console(highlight=False, soft_wrap=True))
    if result.search is not None and not result.is_within_budget:
        raise DamageBudgetError(
            f"the perplexity rose by {result.perplexity_rise:+.1%} on held-out"
            f" text, over the budget of {chosen.max_perplexity_rise:+.1%}; "
            "lower --max-perplexity or give a smaller --strength"
        )


@app.command()
def probe(
    model: ModelArgument,
    texts: Annotated[Path, typer.Option(help="Labelled texts.")],
    out: Annotated[Path, typer.Option(help="The probe to write, .safetensors.")],
    layer: Annotated[int | None, typer.Option(help="1..L [default: L, after the norm]")] = None,
    fit: FitOption = "adam",
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    seed: Seed = 0,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Train a linear probe on the hidden states of labelled texts."""
    from modelsurgery.files import refuse_existing
    from modelsurgery.hidden_states import extract_hidden_states
    from modelsurgery.models import load_model
    from modelsurgery.probe import fit_probe_on_texts, save_probe
    from modelsurgery.texts import load_texts, split_texts

    refuse_existing(out)
    split = split_texts(
        load_texts(texts, text_column=text_column, label_column=label_column), seed=seed
    )
    loaded = load_model(_model(model), device=device, dtype=dtype)
    chosen = loaded.layer_count if layer is None else layer
    with _progress() as progress:
        states = extract_hidden_states(
            loaded,
            [text.text for text in (*split.train, *split.held_out)],
            [chosen],
            progress=progress,
        )
    fitted = fit_probe_on_texts(
        states.by_layer[chosen], split.train, split.held_out, layer=chosen, fit=_fit(fit), seed=seed
    )
    save_probe(fitted, out)
    assert fitted.metrics is not None
    content = {"probe": str(out), "layer": chosen, "fit": fit, **asdict(fitted.metrics)}
    _print(content, as_json)


@app.command()
def edit(
    model: ModelArgument,
    probe: Annotated[Path, typer.Option(help="A probe, ours or the paper's authors'.")],
    out: Annotated[Path, typer.Option(help="The edit to write, .safetensors.")],
    rows: Rows = "0.0465",
    layers: Layers = None,
    rule: Annotated[str, typer.Option(help="W1, W1-W0 or mean-difference.")] = "W1",
    alpha: Alpha = None,
    strength: Strength = None,
    toward: Annotated[bool, typer.Option(help="Toward the behavior, not away.")] = False,
    as_json: Json = False,
) -> None:
    """Choose gate rows and make an edit from the checkpoint on disk; loads no model."""
    from modelsurgery.checkpoint import open_checkpoint
    from modelsurgery.edit import make_edit
    from modelsurgery.edit_file import save_edit
    from modelsurgery.files import refuse_existing, sha256_file
    from modelsurgery.layouts import find_gate_matrices
    from modelsurgery.probe import load_probe
    from modelsurgery.provenance import provenance
    from modelsurgery.region import score_rows, select_region

    refuse_existing(out)
    checkpoint = open_checkpoint(_model(model))
    direction = load_probe(probe).direction(rule)  # type: ignore[arg-type]
    share = _rows(rows)
    assert share is not None
    with _progress() as progress:
        scores = score_rows(
            checkpoint, find_gate_matrices(checkpoint), direction.unsqueeze(0), progress=progress
        )
    region = select_region(scores, share, layers=_layers(layers))
    settings = {"direction_rule": rule, "rows": region.row_count, "layers": _layers(layers)}
    origin = provenance(inputs={"probe": sha256_file(probe)}, settings=settings)
    made = make_edit(region, direction, alpha=alpha, strength=strength, origin=origin)
    made = (made.scaled(-1) if toward else made).bound_to(checkpoint)
    save_edit(made, out)
    _print(
        {
            "edit": str(out),
            "rows": made.row_count,
            "rows_found": made.candidate_rows,
            "tensors": len(made.updates),
            "alpha": made.alpha,
            "strength": made.strength,
            "highest_cosine": max(float(c.max()) for c in region.cosines),
        },
        as_json,
    )


@app.command()
def apply(
    model: ModelArgument,
    edits: Annotated[list[Path], typer.Argument(help="Edits; summed where they meet.")],
    out: Annotated[Path, typer.Option(help="Directory of the edited model.")],
    as_json: Json = False,
) -> None:
    """Write an edited copy of a model directory; loads no model."""
    from modelsurgery.apply.checkpoint import apply_to_copy
    from modelsurgery.edit_file import load_edit

    with _progress() as progress:
        copy = apply_to_copy(
            _model(model), [load_edit(path) for path in edits], out, progress=progress
        )
    content = {
        "directory": str(copy.directory),
        **asdict(copy.coverage),
        "left_behind": list(copy.left_behind),
    }
    _print(content, as_json)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A probe or an edit.")], as_json: Json = False
) -> None:
    """Describe a probe or an edit."""
    from modelsurgery.artefact import is_artefact
    from modelsurgery.edit_file import load_edit
    from modelsurgery.probe import load_probe

    if is_artefact(file, "edit"):
        found = load_edit(file)
        content = {
            "kind": "edit",
            "alpha": found.alpha,
            "strength": found.strength,
            "rows": found.row_count,
            "rows_found": found.candidate_rows,
            "rows_by_tensor": {u.tensor: len(u.rows) for u in found.updates},
            "provenance": found.provenance.to_json(),
        }
    else:
        read = load_probe(file)
        first, second = (float(norm) for norm in read.weight.norm(dim=1))
        cosine = float(read.weight[0] @ read.weight[1]) / (first * second)
        content = {
            "kind": "probe",
            "hidden_size": read.weight.shape[1],
            "layer": read.layer,
            "fit": read.fit,
            "norm_W0": first,
            "norm_W1": second,
            "cosine_W0_W1": cosine,
            "metrics": asdict(read.metrics) if read.metrics else None,
            "provenance": read.provenance.to_json(),
        }
    _print(content, as_json)


@app.command()
def behaviors(as_json: Json = False) -> None:
    """List the built-in behaviors."""
    from modelsurgery.behaviors import built_in_behaviors

    _print(
        {
            one.name: {"title": one.title, "shows": one.shows, "opposite": one.opposite}
            for one in built_in_behaviors()
        },
        as_json,
    )


def _model(name: str) -> Path:
    if name == "embedded":
        from modelsurgery.lab import embedded_model_path

        return embedded_model_path()
    from modelsurgery.models import resolve_model_directory

    return Path(name) if Path(name).is_dir() else resolve_model_directory(name)


def _fit(value: str) -> "Fit":
    from modelsurgery.probe import FITS

    for fit in FITS:
        if fit == value:
            return fit
    raise RecipeError(f"fit {value!r}; expected one of {', '.join(FITS)}")


def _rows(value: str | None) -> float | int | None:
    if value is None:
        return None
    with suppress(ValueError):
        return int(value)
    try:
        return float(value)
    except ValueError as error:
        raise RecipeError(
            f"rows {value!r}; expected a share like 0.0465 or a count like 16384"
        ) from error


def _layers(value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    first, _, last = value.partition("-")
    try:
        return int(first), int(last or first)
    except ValueError as error:
        raise RecipeError(f"layers {value!r}; expected a window like 8-24") from error


def _percent(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        number = float(value.strip().removesuffix("%"))
    except ValueError as error:
        raise RecipeError(f"max-perplexity {value!r}; expected a rise like +5%") from error
    return number / 100 if value.strip().endswith("%") else number


def _print(content: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(content)
        return
    width = max(map(len, content), default=0)
    for key, value in content.items():
        shown = f"{value:.4g}" if isinstance(value, float) else value
        print(f"{key.replace('_', ' '):<{width}}  {shown}")


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps(content, ensure_ascii=False, allow_nan=False))


@contextmanager
def _progress() -> Iterator["Progress"]:
    from modelsurgery.report.live import live_progress

    with live_progress(Console(stderr=True)) as progress:
        yield progress
