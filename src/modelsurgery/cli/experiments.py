"""Verbs that load a model: whole surgeries, the probe, evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from modelsurgery.cli.options import (
    Alpha,
    BehaviorOption,
    DataRoot,
    Device,
    DirectionOption,
    DirectionSource,
    DType,
    FitOption,
    FitTexts,
    Json,
    JudgeOption,
    LabelColumn,
    Layers,
    LayoutFile,
    MaxCapabilityDrop,
    MaxDivergence,
    MaxPerplexity,
    MaxUncalledRise,
    Minutes,
    ModelArgument,
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
    Seed,
    Strength,
    StudyFile,
    TemplateName,
    TextColumn,
    Trials,
    Tune,
    chosen_fit,
    layer_window,
    model_directory,
    percentage,
    row_share,
)
from modelsurgery.cli.output import print_content, print_json, print_plan, showing_progress
from modelsurgery.errors import DamageBudgetError, NoEffectError, RecipeError

JUDGES = (
    "ngrams, phrases, lab, texts, hf:MODEL[#LABEL], chat:MODEL@URL, perspective, review:FILE; "
    "the first decides, of others the agreement is told."
)
TASKS = "Capability: wikitext, lambada, gsm8k, bbh, mmlu, tydiqa."


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
    options: dict[str, Any], print_for_people: Callable[[dict[str, Any], Any], None], as_json: bool
) -> None:
    from rich.console import Console

    with showing_progress() as progress:
        from modelsurgery.recipe import Recipe
        from modelsurgery.running import run_recipe
        from modelsurgery.schema import parse

        result = run_recipe(
            parse(options, Recipe, "options"), progress=progress, announce=print_plan
        )
    content = result.to_json()
    if as_json:
        print_json(content)
    else:
        print_for_people(content, Console(highlight=False, soft_wrap=True))
    choice, outcome = result.choice, result.outcome
    is_fitted = choice.search is not None or choice.strength is not None
    over = result.damage.broken if is_fitted else ()
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
        from modelsurgery.recipe import Recipe
        from modelsurgery.running import plan_recipe
        from modelsurgery.schema import parse

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
        from modelsurgery.recipe import SequenceRecipe
        from modelsurgery.schema import parse
        from modelsurgery.sequence import run_sequence

        result = run_sequence(
            parse(options, SequenceRecipe, "options"), progress=progress, announce=print_plan
        )
    content = result.to_json()
    if as_json:
        print_json(content)
    else:
        print_sequence(content, Console(highlight=False, soft_wrap=True))
    _end((), [one.sentence for one in result.outcomes if not one.is_as_asked])


def _options_of(recipe: Path) -> dict[str, Any]:
    """What a recipe's file says."""
    with showing_progress():
        from modelsurgery.recipe import SequenceRecipe
        from modelsurgery.schema import load_yaml

        return load_yaml(recipe, SequenceRecipe).model_dump(exclude_unset=True)


def _without_none(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def probe(
    model: ModelArgument,
    texts: Annotated[Path, typer.Option(help="Labelled texts.")],
    out: Annotated[Path, typer.Option(help="The probe to write, .safetensors.")],
    layer: Annotated[int | None, typer.Option(help="1..L [default: L, after the norm]")] = None,
    fit: FitOption = "adam",
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    chat_template: TemplateName = None,
    now: Now = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Train a linear probe on the hidden states of labelled texts."""
    with showing_progress() as progress:
        from modelsurgery.files import refuse_existing
        from modelsurgery.fitting import fit_probe_on_texts
        from modelsurgery.hidden_states import extract_hidden_states
        from modelsurgery.models import load_model
        from modelsurgery.probe import save_probe
        from modelsurgery.texts import load_texts, split_texts

        refuse_existing(out)
        split = split_texts(
            load_texts(texts, text_column=text_column, label_column=label_column), seed=seed
        )
        with progress("load model", 0):
            loaded = load_model(
                model_directory(model),
                device=device,
                dtype=dtype,
                chat_template=chat_template,
                now=now,
            )
        chosen = loaded.layer_count if layer is None else layer
        states = extract_hidden_states(
            loaded,
            [loaded.written(text) for text in (*split.train, *split.held_out)],
            [chosen],
            progress=progress,
        )
        with progress("fit probe", 0):
            fitted = fit_probe_on_texts(
                states.by_layer[chosen],
                split.train,
                split.held_out,
                layer=chosen,
                fit=chosen_fit(fit),
                seed=seed,
            )
        save_probe(fitted, out)
    assert fitted.metrics is not None
    content = {"probe": str(out), "layer": chosen, "fit": fit, **asdict(fitted.metrics)}
    print_content(content, as_json)


def evaluate(
    model: ModelArgument,
    edit: Annotated[list[Path] | None, typer.Option(help="Edit file; several together.")] = None,
    behavior: Annotated[str, typer.Option(help="Built-in name or YAML file.")] = "toxicity",
    prompts: Annotated[Path | None, typer.Option(help="Prompts of your own.")] = None,
    neutral: Annotated[Path | None, typer.Option(help="Neutral text for the damage.")] = None,
    data: DataRoot = None,
    judge: Annotated[list[str] | None, typer.Option(help=JUDGES)] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Prompt set; else all.")] = None,
    limit: Annotated[int | None, typer.Option(help="Prompts of a set, at most.")] = None,
    samples: Annotated[int, typer.Option(help="Samples a prompt; 0 is greedy.")] = 0,
    task: Annotated[list[str] | None, typer.Option(help=TASKS)] = None,
    task_limit: Annotated[int | None, typer.Option(help="Items of a task, at most.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Length of a continuation.")] = None,
    export_for_review: Annotated[
        int | None, typer.Option(help="Write so many continuations for a person to label.")
    ] = None,
    backend: Annotated[str, typer.Option(help="transformers or vllm.")] = "transformers",
    store: Annotated[
        Path | None, typer.Option(help="Take up, and keep, generations and judgements here.")
    ] = None,
    layout: LayoutFile = None,
    chat_template: TemplateName = None,
    now: Now = None,
    seed: Annotated[int | None, typer.Option(min=0, help="[default: the edit's]")] = None,
    device: Device = None,
    dtype: DType = None,
    out: Annotated[Path | None, typer.Option(help="Run directory.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a model and its edits on a behavior, and what broke; goes on if interrupted."""
    from rich.console import Console

    from modelsurgery.report.evaluation import print_evaluation

    with showing_progress() as progress:
        from modelsurgery.behaviors import describe_behavior
        from modelsurgery.behaviors.roots import data_root
        from modelsurgery.edit_file import load_edit
        from modelsurgery.evaluating import EvaluationPlan
        from modelsurgery.evaluating import evaluate as evaluated
        from modelsurgery.schema import parse

        described = describe_behavior(behavior).with_own(prompts=prompts, neutral=neutral)
        described = described.with_length(max_new_tokens)
        if seed is None:  # that of the edit, so that texts which chose it are not measured on
            seeds = [load_edit(one).provenance.seed for one in edit or ()]
            seed = next((one for one in seeds if one is not None), 0)
        options = {
            "model": model,
            "edits": edit or (),
            "behavior": described,
            "data": data_root(data),
            "judges": judge or (),
            "sets": sets or None,
            "limit": limit,
            "samples": samples,
            "tasks": task or (),
            "task_limit": task_limit,
            "export_for_review": export_for_review,
            "backend": backend,
            "seed": seed,
            "device": device,
            "dtype": dtype,
            "layout": layout,
            "chat_template": chat_template,
            "now": now,
            "store": store,
            "out": out,
        }
        result = evaluated(parse(options, EvaluationPlan, "options"), progress=progress)
    content = result.to_json()
    if as_json:
        print_json({**content, "speed": result.speed, "run_directory": str(result.directory)})
    else:
        print_evaluation(content, Console(highlight=False, soft_wrap=True))
        print(f"everything is in {result.directory}")
        print(f"to look at it: {result.directory}/report.html")
