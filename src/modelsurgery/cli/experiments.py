"""Whole surgeries: `surgery run` and `surgery tune`."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelsurgery.cli.options import (
    Alpha,
    BehaviorOption,
    DataRoot,
    Device,
    DirectionOption,
    DirectionSource,
    DType,
    FitTexts,
    Json,
    JudgeOption,
    Layers,
    LayoutFile,
    MaxCapabilityDrop,
    MaxDivergence,
    MaxPerplexity,
    MaxUncalledRise,
    Minutes,
    Now,
    OwnNeutral,
    OwnPrompts,
    OwnTexts,
    PerLayer,
    PlanOnly,
    PromptCount,
    RecipeFit,
    RecipeLabelColumn,
    RecipeSeed,
    RecipeTextColumn,
    Rows,
    Rule,
    RunOut,
    Samples,
    Strength,
    StudyFile,
    TemplateName,
    Trials,
    Tune,
    layer_window,
    percentage,
    row_share,
)
from modelsurgery.cli.output import print_json, print_plan, showing_progress
from modelsurgery.errors import DamageBudgetError, NoEffectError, RecipeError

if TYPE_CHECKING:
    from modelsurgery.results import RunResults


def run(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe, YAML.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Model directory, name or id of the Hub.")
    ] = None,
    behavior: Annotated[
        list[str] | None, typer.Option(help="Built-in name or YAML; several in a row.")
    ] = None,
    edit: Annotated[
        list[Path] | None, typer.Option(help="On top of this edit; several together.")
    ] = None,
    texts: OwnTexts = None,
    prompts: OwnPrompts = None,
    neutral: OwnNeutral = None,
    text_column: RecipeTextColumn = None,
    label_column: RecipeLabelColumn = None,
    data: DataRoot = None,
    judge: JudgeOption = None,
    direction: DirectionOption = None,
    max_perplexity: MaxPerplexity = None,
    max_divergence: MaxDivergence = None,
    max_capability_drop: MaxCapabilityDrop = None,
    max_uncalled_rise: MaxUncalledRise = None,
    trials: Trials = None,
    minutes: Minutes = None,
    study: StudyFile = None,
    tune: Tune = False,
    rule: Rule = None,
    fit_texts: FitTexts = None,
    fit: RecipeFit = None,
    layer: Annotated[int | None, typer.Option(help="Layer that the probe reads, 1..L.")] = None,
    direction_source: DirectionSource = None,
    rows: Rows = None,
    layers: Layers = None,
    per_layer: PerLayer = None,
    alpha: Alpha = None,
    strength: Strength = None,
    layout: LayoutFile = None,
    chat_template: TemplateName = None,
    now: Now = None,
    samples: Samples = None,
    prompt_count: PromptCount = None,
    seed: RecipeSeed = None,
    device: Device = None,
    dtype: DType = None,
    out: RunOut = None,
    show_offensive: Annotated[
        bool, typer.Option("--show-offensive", help="Mask no examples; --json never does.")
    ] = False,
    plan: PlanOnly = False,
    as_json: Json = False,
) -> None:
    """Perform a whole surgery and measure it; with nothing given, on the embedded model."""
    from modelsurgery.report.terminal import print_results

    several = behavior if behavior and len(behavior) > 1 else None
    given = {
        "model": model,
        "behavior": behavior[0] if behavior and not several else None,
        "behaviors": several,
        "edits": edit or None,
        "texts": texts,
        "prompts": prompts,
        "neutral": neutral,
        "text_column": text_column,
        "label_column": label_column,
        "data": data,
        "judge": judge,
        "direction": direction,
        "max_perplexity_rise": percentage(max_perplexity),
        "max_divergence": max_divergence,
        "max_capability_drop": max_capability_drop,
        "max_uncalled_rise": max_uncalled_rise,
        "trials": trials,
        "minutes": minutes,
        "study": study,
        "fit": fit,
        "layer": layer,
        "tune": tune or None,
        "rule": rule,
        "fit_texts": fit_texts,
        "direction_source": direction_source,
        "rows": row_share(rows),
        "layers": layer_window(layers),
        "per_layer": per_layer,
        "alpha": alpha,
        "strength": strength,
        "layout": layout,
        "chat_template": chat_template,
        "now": now,
        "samples": samples,
        "prompt_count": prompt_count,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "out": out,
    }
    base = {} if recipe is None else _options_of(recipe)
    if tune:
        base = {key: value for key, value in base.items() if key not in ("alpha", "strength")}
    if behavior:  # what was typed stands in place of what the recipe says
        base = {key: value for key, value in base.items() if key not in ("behavior", "behaviors")}
    options = {**base, **_without_none(given)}
    if plan:
        _show_plan(options, as_json)
    elif options.get("behaviors"):
        _perform_in_order(options, as_json)
    else:
        _perform(options, partial(print_results, show_offensive=show_offensive), as_json)


def tune(
    model: Annotated[str, typer.Argument(help="Model directory, name or id of the Hub.")],
    behavior: BehaviorOption = None,
    texts: OwnTexts = None,
    prompts: OwnPrompts = None,
    neutral: OwnNeutral = None,
    data: DataRoot = None,
    judge: JudgeOption = None,
    direction: DirectionOption = None,
    max_perplexity: MaxPerplexity = None,
    max_divergence: MaxDivergence = None,
    max_capability_drop: MaxCapabilityDrop = None,
    max_uncalled_rise: MaxUncalledRise = None,
    trials: Trials = None,
    minutes: Minutes = None,
    study: StudyFile = None,
    rule: Rule = None,
    fit_texts: FitTexts = None,
    fit: RecipeFit = None,
    layout: LayoutFile = None,
    chat_template: TemplateName = None,
    now: Now = None,
    samples: Samples = None,
    prompt_count: PromptCount = None,
    seed: RecipeSeed = None,
    device: Device = None,
    dtype: DType = None,
    out: RunOut = None,
    as_json: Json = False,
) -> None:
    """Find the strongest edit inside a damage budget, and show what else could be had."""
    from modelsurgery.report.tuning import print_tuning

    given = {
        "model": model,
        "behavior": behavior,
        "texts": texts,
        "prompts": prompts,
        "neutral": neutral,
        "data": data,
        "judge": judge,
        "direction": direction,
        "max_perplexity_rise": percentage(max_perplexity),
        "max_divergence": max_divergence,
        "max_capability_drop": max_capability_drop,
        "max_uncalled_rise": max_uncalled_rise,
        "trials": trials,
        "minutes": minutes,
        "study": study,
        "tune": True,
        "rule": rule,
        "fit_texts": fit_texts,
        "fit": fit,
        "layout": layout,
        "chat_template": chat_template,
        "now": now,
        "samples": samples,
        "prompt_count": prompt_count,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "out": out,
    }
    _perform(_without_none(given), print_tuning, as_json)


def _perform(
    options: dict[str, Any], print_for_people: Callable[["RunResults", Any], None], as_json: bool
) -> None:
    from rich.console import Console

    with showing_progress() as progress:
        from modelsurgery.files.schema import parse
        from modelsurgery.pipeline.recipe import Recipe
        from modelsurgery.pipeline.running import run_recipe

        result = run_recipe(
            parse(options, Recipe, "options"), progress=progress, announce=print_plan
        )
    if as_json:
        print_json(result.to_json())
    else:
        print_for_people(result.results(), Console(highlight=False, soft_wrap=True))
    choice, outcome = result.choice, result.outcome
    is_fitted = choice.search is not None or choice.strength is not None
    over = result.broken if is_fitted else ()
    _end(over, [] if outcome.is_as_asked else [outcome.sentence])


def _end(over: Sequence[str], without_effect: Sequence[str]) -> None:
    """Fail after results were written and printed, if the edit is not what was asked for.

    Damage over a budget comes first: it is a limit that was set, and its exit code wins.
    """
    told = " ".join(without_effect).rstrip(".")
    if over:
        also = f"; also: {told}" if told else ""
        raise DamageBudgetError(
            f"the damage on held-out data is over the budget of {', '.join(over)}; the edit is "
            f"there all the same: allow more, or take a smaller --strength{also}"
        )
    if told:
        raise NoEffectError(f"{told}; edit and results are there all the same")


def _show_plan(options: dict[str, Any], as_json: bool) -> None:
    from modelsurgery.report.scheduling import plan_lines

    with showing_progress() as progress:
        from modelsurgery.files.schema import parse
        from modelsurgery.pipeline.recipe import Recipe
        from modelsurgery.pipeline.running import plan_recipe

        if options.get("behaviors"):
            raise RecipeError("--plan is for one behavior; give each of them in turn")
        content = plan_recipe(parse(options, Recipe, "options"), progress=progress).to_json()
    if as_json:
        print_json(content)
    else:
        print("\n".join(plan_lines(content)))


def _perform_in_order(options: dict[str, Any], as_json: bool) -> None:
    from rich.console import Console

    from modelsurgery.report.sequence import print_sequence

    with showing_progress() as progress:
        from modelsurgery.files.schema import parse
        from modelsurgery.pipeline.recipe import SequenceRecipe
        from modelsurgery.pipeline.sequence import run_sequence

        result = run_sequence(
            parse(options, SequenceRecipe, "options"), progress=progress, announce=print_plan
        )
    if as_json:
        print_json(result.to_json())
    else:
        print_sequence(result.results(), Console(highlight=False, soft_wrap=True))
    _end((), [one.sentence for one in result.outcomes if not one.is_as_asked])


def _options_of(recipe: Path) -> dict[str, Any]:
    """What a recipe's file says."""
    with showing_progress():
        from modelsurgery.files.schema import load_yaml
        from modelsurgery.pipeline.recipe import SequenceRecipe

        return load_yaml(recipe, SequenceRecipe).model_dump(exclude_unset=True)


def _without_none(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}
