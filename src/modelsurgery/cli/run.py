"""`surgery run` and `surgery tune`: whole surgeries, with an option for each field of a recipe."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelsurgery.cli.options import (
    Cpus,
    Gpus,
    Json,
    ModelArgument,
    Ray,
    ShowOffensive,
    Workers,
    chosen_executor,
    default_note,
    optional_fields,
    typed_values,
    with_options,
)
from modelsurgery.cli.output import (
    console,
    print_content,
    print_json,
    print_plan,
    showing_progress,
    using_a_model,
)
from modelsurgery.errors import DamageBudgetError, EvaluationError, NoEffectError, RecipeError
from modelsurgery.files.schema import load_yaml, parse
from modelsurgery.pipeline.grid_recipe import GridRecipe
from modelsurgery.pipeline.option import Panel
from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.pipeline.sequence_recipe import SequenceRecipe

if TYPE_CHECKING:
    from modelsurgery.pipeline.grids import Executor
    from modelsurgery.results import RunResults

# Fields of a recipe that have one option, for one value and for several.
SEVERAL = {"behavior": "behaviors", "model": "models", "rule": "rules", "seed": "seeds"}


@with_options(GridRecipe, optional_fields(GridRecipe, without=SEVERAL))
def run(
    recipe: Annotated[
        Path | None, typer.Argument(help="Recipe (YAML). Options override what it says.")
    ] = None,
    *,
    workers: Workers = None,
    ray: Ray = None,
    gpus: Gpus = None,
    cpus: Cpus = None,
    show_offensive: ShowOffensive = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Print the stages of the run with their estimated times, and stop.",
            rich_help_panel=Panel.OUTPUT,
        ),
    ] = False,
    as_json: Json = False,
    **typed: Any,
) -> None:
    """Make an edit, measure it, and write a report. Without arguments, edit the demo model."""
    from modelsurgery.report.terminal import print_results

    said = load_yaml(recipe, GridRecipe).model_dump(exclude_unset=True) if recipe else {}
    options = overridden(said, typed_values(typed))
    executor = chosen_executor(workers, ray, gpus, cpus)
    is_grid = executor is not None or any(map(options.get, ("models", "rules", "seeds")))
    if plan and is_grid:
        raise RecipeError("--plan takes one run; omit options that make a grid")
    if is_grid:
        _perform_grid(options, executor, as_json)
    elif plan:
        _show_plan(options, as_json)
    elif options.get("behaviors") or options.get("at_once"):
        _perform_several(options, as_json)
    else:
        _perform(options, partial(print_results, show_offensive=show_offensive), as_json)


@with_options(Recipe, optional_fields(Recipe, without=("model", "tune", "strength", "alpha")))
def tune(model: ModelArgument, *, as_json: Json = False, **typed: Any) -> None:
    """Search for the strongest edit within a damage budget, and show the alternatives."""
    from modelsurgery.report.tuning import print_tuning

    _perform({**typed_values(typed), "model": model, "tune": True}, print_tuning, as_json)


@with_options(
    Recipe,
    "model texts data device max_memory offload",
    defaults=dict.fromkeys(("model", "texts", "data"), "as the search"),
)
def worker(
    storage: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="Storage of the search: what --storage or --study of `tune` names."
        ),
    ],
    study: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the study, or how it begins."
            + default_note("the search that is going on"),
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, help="How long to wait for a search to begin."),
    ] = 600.0,
    *,
    as_json: Json = False,
    **typed: Any,
) -> None:
    """Make trials of a search that `surgery tune` began, on this or another machine."""
    # Devices are those of this machine, also where none is given.
    elsewhere = dict.fromkeys(("device", "max_memory", "offload"))
    with showing_progress() as progress:
        from modelsurgery.pipeline.joining import join_search

        name, made = join_search(
            storage,
            study=study,
            wait_seconds=wait,
            instead={**elsewhere, **typed_values(typed)},
            progress=progress,
        )
    print_content({"study": name, "trials_made_here": made}, as_json)


def overridden(recipe: dict[str, Any], typed: dict[str, Any]) -> dict[str, Any]:
    """What a recipe says, with what was typed in its place."""
    for one, several in SEVERAL.items():
        if len(typed.get(several, ())) == 1:
            (typed[one],) = typed.pop(several)
    replaced = {
        name for fields in SEVERAL.items() if not typed.keys().isdisjoint(fields) for name in fields
    }
    if "tune" in typed:
        replaced |= {"alpha", "strength"}
    return {**{key: recipe[key] for key in recipe if key not in replaced}, **typed}


def _perform(
    options: dict[str, Any], print_for_people: Callable[["RunResults", Any], None], as_json: bool
) -> None:
    recipe = parse(options, Recipe, "options")
    with using_a_model() as progress:
        from modelsurgery.pipeline.running import run_recipe

        result = run_recipe(recipe, progress=progress, announce=print_plan)
    if as_json:
        print_json(result.to_json())
    else:
        print_for_people(result.results(), console())
    choice, outcome = result.choice, result.outcome
    is_fitted = choice.search is not None or choice.strength is not None
    over = result.broken if is_fitted else ()
    _end(over, [] if outcome.kind == "changed" else [outcome.sentence])


def _end(over: Sequence[str], without_effect: Sequence[str]) -> None:
    """Fail after results were written and printed, if the edit is not what was asked for.

    Damage over a budget comes first: it is a limit that was set, and its exit code wins.
    """
    told = " ".join(without_effect).rstrip(".")
    if over:
        also = f"; also: {told}" if told else ""
        raise DamageBudgetError(
            f"the damage on held-out data is over the budget of {', '.join(over)}; the edit "
            f"was saved anyway: raise the budget, or use a smaller --strength{also}"
        )
    if told:
        raise NoEffectError(f"{told}; edit and results were saved anyway")


def _show_plan(options: dict[str, Any], as_json: bool) -> None:
    from modelsurgery.report.scheduling import plan_lines

    if options.get("behaviors"):
        raise RecipeError("--plan takes one behavior; run it once for each")
    recipe = parse(options, Recipe, "options")
    with using_a_model() as progress:
        from modelsurgery.pipeline.running import plan_recipe

        content = plan_recipe(recipe, progress=progress).to_json()
    if as_json:
        print_json(content)
    else:
        print("\n".join(plan_lines(content)))


def _perform_several(options: dict[str, Any], as_json: bool) -> None:
    from modelsurgery.report.sequence import print_sequence

    recipe = parse(options, SequenceRecipe, "options")
    with using_a_model() as progress:
        from modelsurgery.pipeline.sequence import run_sequence
        from modelsurgery.results import plain

        results = run_sequence(recipe, progress=progress, announce=print_plan)
    if as_json:
        print_json(plain(results))
    else:
        print_sequence(results, console())
    _end((), [one.sentence for one in results.outcomes if one.kind != "changed"])


def _perform_grid(options: dict[str, Any], executor: "Executor | None", as_json: bool) -> None:
    recipe = parse(options, GridRecipe, "options")
    with using_a_model() as progress:
        from modelsurgery.pipeline.run_grid import run_grid
        from modelsurgery.report.grid import print_grid
        from modelsurgery.results import plain

        found = run_grid(recipe, executor=executor, progress=progress)
    if as_json:
        runs = {name: plain(one) for name, one in found.results.items()}
        told = {"runs": runs, "failed": found.failed, "run_directory": str(found.directory)}
        print_json(told)
    else:
        print_grid(found.results, found.failed, found.directory, console())
    if found.failed:
        name, why = next(iter(found.failed.items()))
        raise EvaluationError(
            f"{len(found.failed)} of {len(found.failed) + len(found.results)} runs failed, the "
            f"first is {name}: {why}; the same command with --out {found.directory} tries again"
        )
