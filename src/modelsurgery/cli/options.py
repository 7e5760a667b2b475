"""Options that several verbs share, and turning what was typed into values."""

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelsurgery.errors import RecipeError

if TYPE_CHECKING:
    from modelsurgery.checkpoint.layouts import GateLayout
    from modelsurgery.edit.probe import Fit

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ModelArgument = Annotated[str, typer.Argument(help="Model directory, name or id of the Hub.")]
TextColumn = Annotated[str, typer.Option(help="Column with the text.")]
LabelColumn = Annotated[str, typer.Option(help="Column with the label: 1 shows the behavior.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, … [default: a GPU if there is one]")]
DType = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")]
FitOption = Annotated[str, typer.Option(help="adam (the paper's), logistic or mean-difference.")]
# Typer forgets help and limits of `Annotated[...] | None`: verbs whose recipe has the default
# take these.
RecipeTextColumn = Annotated[
    str | None, typer.Option("--text-column", help="Column with the text.")
]
RecipeLabelColumn = Annotated[
    str | None, typer.Option("--label-column", help="Column with the label: 1 shows it.")
]
RecipeFit = Annotated[
    str | None, typer.Option("--fit", help="adam (the paper's), logistic or mean-difference.")
]
RecipeSeed = Annotated[
    int | None,
    typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of everything random."),
]
Rule = Annotated[
    str | None,
    typer.Option(
        "--rule",
        help="What chooses rows and directions: natural-gradient, least-squares (forward passes "
        "only) or paper. [default: natural-gradient]",
    ),
]
FitTexts = Annotated[
    int | None,
    typer.Option(
        "--fit-texts", min=1, help="Texts of each label to make the edit from. [default: 200]"
    ),
]
DirectionSource = Annotated[
    str | None,
    typer.Option(
        "--direction-source",
        help="With --rule paper: mean-difference, W1 (the authors') or W1-W0. [default: searched, "
        "or mean-difference where the strength is given]",
    ),
]
Tune = Annotated[
    bool,
    typer.Option("--tune", help="Search for rows, layers and damping too, not strength alone."),
]
Rows = Annotated[str | None, typer.Option(help="Gate rows: a share (0.0465) or a count (16384).")]
Layers = Annotated[str | None, typer.Option(help="Layers to edit, 1..L, as 8-24 or 8.")]
Alpha = Annotated[float | None, typer.Option(help="The paper's α: multiplies the direction.")]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data", help="Local copies of public data sets, a folder each, or `hub`."),
]
BehaviorOption = Annotated[str | None, typer.Option("--behavior", help="Built-in name or YAML.")]
OwnTexts = Annotated[
    Path | None, typer.Option("--texts", help="Labelled texts, in place of the behavior's.")
]
OwnPrompts = Annotated[
    Path | None, typer.Option("--prompts", help="Held-out prompts, in place of the behavior's.")
]
OwnNeutral = Annotated[Path | None, typer.Option("--neutral", help="Neutral text for the damage.")]
JudgeOption = Annotated[
    str | None, typer.Option("--judge", help="Judge, as in `surgery evaluate`.")
]
DirectionOption = Annotated[str | None, typer.Option("--direction", help="away or toward.")]
MaxPerplexity = Annotated[
    str | None, typer.Option("--max-perplexity", help="Budget: its rise on neutral text, as +2%.")
]
MaxDivergence = Annotated[
    float | None,
    typer.Option("--max-divergence", help="Budget: mean KL from the base, nats a token."),
]
MaxCapabilityDrop = Annotated[
    float | None,
    typer.Option(
        "--max-capability-drop",
        help="Budget: points of exact match on facts, or of next tokens of neutral text.",
    ),
]
MaxUncalledRise = Annotated[
    float | None,
    typer.Option(
        "--max-uncalled-rise",
        help="Budget: points more of it where it is not called for, as over-refusal.",
    ),
]
Trials = Annotated[
    int | None, typer.Option("--trials", help="Edits that a search tries. [default: 40]")
]
Minutes = Annotated[
    float | None,
    typer.Option(
        "--minutes",
        help="For the whole run: texts, prompts and samples that are not given become fewer until "
        "it fits. [default: 15, except for tiny models]",
    ),
]
PlanOnly = Annotated[
    bool, typer.Option("--plan", help="Show the stages and their time here, and stop.")
]
StudyFile = Annotated[
    Path | None, typer.Option("--study", help="Take up, and keep, trials in this file.")
]
PerLayer = Annotated[
    bool | None,
    typer.Option(
        "--per-layer/--global", help="The same share of each layer's rows, or the best of all."
    ),
]
Samples = Annotated[
    int | None,
    typer.Option("--samples", help="Sampled continuations of a prompt. [default: 3, or what fits]"),
]
PromptCount = Annotated[
    int | None,
    typer.Option("--prompt-count", help="Held-out prompts at most. [default: 300, or what fits]"),
]
RunOut = Annotated[Path | None, typer.Option("--out", help="Run directory.")]
LayoutFile = Annotated[
    Path | None, typer.Option("--layout", help="Where the gate rows are, for an unknown family.")
]
Strength = Annotated[float | None, typer.Option(help="α in portable units.")]
TemplateName = Annotated[
    str | None,
    typer.Option("--chat-template", help="Name of one of the model's chat templates."),
]
Now = Annotated[
    datetime | None,
    typer.Option("--now", help="Time for chat templates that print it. [default: when it begins]"),
]


def model_directory(name: str) -> Path:
    """Directory of a model given as a directory, a name, an id of the Hub, or `embedded`."""
    from modelsurgery.data.demo import embedded_model_path, is_embedded

    if is_embedded(name):
        return embedded_model_path()
    if Path(name).is_dir():
        return Path(name)
    from modelsurgery.model.loading import resolve_model_directory

    return resolve_model_directory(name)


def chosen_layout(path: Path | None) -> "GateLayout | None":
    """The layout that a user wrote, if any."""
    from modelsurgery.checkpoint.layouts import load_layout

    return None if path is None else load_layout(path)


def chosen_fit(value: str) -> "Fit":
    """A way of fitting a probe, by its name."""
    from modelsurgery.edit.probe import FITS

    for fit in FITS:
        if fit == value:
            return fit
    raise RecipeError(f"fit {value!r}; expected one of {', '.join(FITS)}")


def row_share(value: str | None) -> float | int | None:
    """A share (float) or a count (int) of rows."""
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


def layer_window(value: str | None) -> tuple[int, int] | None:
    """First and last layer of `8-24` or `8`."""
    if value is None:
        return None
    first, _, last = value.partition("-")
    try:
        return int(first), int(last or first)
    except ValueError as error:
        raise RecipeError(f"layers {value!r}; expected a window like 8-24") from error


def percentage(value: str | None) -> float | None:
    """`+5%` and `0.05` as 0.05."""
    if value is None:
        return None
    try:
        number = float(value.strip().removesuffix("%"))
    except ValueError as error:
        raise RecipeError(f"max-perplexity {value!r}; expected a rise like +5%") from error
    return number / 100 if value.strip().endswith("%") else number
