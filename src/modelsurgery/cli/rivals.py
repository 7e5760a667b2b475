"""`surgery rivals` and `surgery ablations`: methods side by side on one's own model."""

import inspect
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from modelsurgery.cli.options import (
    Cpus,
    DataRoot,
    Gpus,
    Json,
    Neutral,
    Prompts,
    Ray,
    Workers,
    chosen_executor,
    default_note,
    option,
)
from modelsurgery.cli.output import console, print_json, using_a_model
from modelsurgery.errors import EvaluationError, RecipeError, SurgeryError
from modelsurgery.pipeline.evaluation_options import EvaluationOptions
from modelsurgery.pipeline.option import Panel
from modelsurgery.pipeline.recipe import DEFAULT_BEHAVIOR

if TYPE_CHECKING:
    from modelsurgery.pipeline.rivals import RivalsRun
    from modelsurgery.pipeline.rivals_plan import RivalsPlan

Kind = Literal["rivals", "ablations"]


def rivals(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Model directories, names of fetched models, ids of the Hub, or demo. With "
            "--published, a run directory of this command, or nothing.",
            show_default=False,
        ),
    ] = None,
    behavior: Annotated[
        list[str] | None,
        option(
            "behavior",
            default=DEFAULT_BEHAVIOR,
            more="Repeatable: each is compared on each model.",
        ),
    ] = None,
    texts: Annotated[Path | None, option("texts")] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="Method to measure (`--list` shows them). Repeatable." + default_note("all"),
        ),
    ] = None,
    show_methods: Annotated[
        bool, typer.Option("--list", help="List the methods with their sources, and stop.")
    ] = False,
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="Print what others have published, beside the rows of a run directory if one is "
            "given, and stop.",
        ),
    ] = False,
    direction: Annotated[str | None, option("direction")] = None,
    out: Annotated[Path | None, option("out")] = None,
    prompts: Prompts = None,
    neutral: Neutral = None,
    data: DataRoot = None,
    kl: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Divergences in nats per token that each method is brought to.",
            rich_help_panel=Panel.MEASURING,
        ),
    ] = "0.01,0.02,0.05",
    seeds: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="Seeds; each is measured.", rich_help_panel=Panel.MEASURING
        ),
    ] = "0",
    train_texts: Annotated[int, option("train_texts", default="200")] = 200,
    limit: Annotated[int | None, option("limit", EvaluationOptions)] = None,
    prompt_set: Annotated[
        str | None,
        typer.Option(
            "--set",
            metavar="NAME",
            help="Prompt set to use." + default_note("the first"),
            rich_help_panel=Panel.MEASURING,
        ),
    ] = None,
    judges: Annotated[
        list[str] | None,
        option("judge", more="Repeatable: the first judge decides, and agreement is reported."),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            metavar="TASK",
            help="Capability task, as for `evaluate`. Repeatable.",
            rich_help_panel=Panel.MEASURING,
        ),
    ] = None,
    task_limit: Annotated[int | None, option("task_limit", EvaluationOptions)] = None,
    device: Annotated[str | None, option("device")] = None,
    dtype: Annotated[str | None, option("dtype")] = None,
    workers: Workers = None,
    ray: Ray = None,
    gpus: Gpus = None,
    cpus: Cpus = None,
    as_json: Json = False,
) -> None:
    """Compare ways to steer a model at the same divergence. Resumes if interrupted."""
    _compare("rivals", **locals())


def ablations(**typed: Any) -> None:
    """Measure what each part of the rules contributes, at the same divergence. Resumes."""
    _compare("ablations", **typed)


_shared = inspect.signature(rivals)
ablations.__signature__ = _shared.replace(  # type: ignore[attr-defined]
    parameters=[
        one.replace(default="0.02") if one.name == "kl" else one
        for one in _shared.parameters.values()
    ]
)


def _compare(
    kind: Kind,
    *,
    models: list[str] | None,
    show_methods: bool,
    published: bool,
    workers: int | None,
    ray: str | None,
    gpus: float | None,
    cpus: int | None,
    as_json: bool,
    **typed: Any,
) -> None:
    """Run comparisons, one for each model and behavior."""
    if show_methods:
        _list_methods(kind, as_json)
        return
    if published:
        _show_published(kind, models, as_json)
        return
    if not models:
        raise RecipeError(f"no model; type one, as in `surgery {kind} demo`")

    with using_a_model() as progress:
        executor = chosen_executor(workers, ray, gpus, cpus)
        from modelsurgery.pipeline.rivals import run_comparisons

        plans = _plans(kind, models, **typed)
        found = run_comparisons(plans, executor=executor, progress=progress)
    _print(found, as_json)


def _plans(
    kind: Kind,
    models: list[str],
    *,
    behavior: list[str] | None,
    texts: Path | None,
    prompts: Path | None,
    neutral: Path | None,
    kl: str,
    seeds: str,
    train_texts: int,
    limit: int | None,
    data: Path | None,
    **same: Any,
) -> "list[RivalsPlan]":
    """What was typed; what the plan has under the same name, in the same form, is in `same`."""
    from modelsurgery.data.behaviors import BehaviorFile, describe_behavior
    from modelsurgery.data.behaviors.roots import data_root
    from modelsurgery.files.schema import parse
    from modelsurgery.pipeline.rivals_plan import RivalsPlan

    described = (
        [describe_behavior(name) for name in behavior or [DEFAULT_BEHAVIOR]]
        if texts is None
        else [BehaviorFile.of_texts(texts)]
    )
    given = {**same, "prompts": limit}
    values = {name: value for name, value in given.items() if value is not None and value != []}
    values |= {
        "kind": kind,
        "divergences": _numbers(kl, "--kl", float),
        "seeds": _numbers(seeds, "--seeds", int),
        "texts": train_texts,
        "data": data_root(data),
    }
    own = {"texts": texts, "prompts": prompts, "neutral": neutral}
    return [
        parse({**values, "model": model, "behavior": one.with_own(**own)}, RivalsPlan, "options")
        for model, one in product(dict.fromkeys(models), described)
    ]


def _print(found: "Sequence[RivalsRun | SurgeryError]", as_json: bool) -> None:
    """Print what comparisons gave, one after the other.

    Raises:
        SurgeryError: a comparison gave nothing, or cells of it were lost.
    """
    from modelsurgery.report.rivals import print_rivals

    runs = [one for one in found if not isinstance(one, SurgeryError)]
    printed = [
        {**run.results.model_dump(mode="json"), "run_directory": str(run.directory)} for run in runs
    ]
    if as_json:
        print_json(printed[0] if len(found) == 1 else {"comparisons": printed})
    else:
        for run in runs:
            print_rivals(run.results, console())
            print(f"results are in {run.directory}")
            print(f"report: {run.directory}/report.html")
    for one in found:
        if isinstance(one, SurgeryError):
            raise one
    lost = {cell: why for run in runs for cell, why in run.lost.items()}
    if lost:
        cell, why = next(iter(lost.items()))
        raise EvaluationError(
            f"{len(lost)} tasks failed, the first is {cell}: {why}; all others are saved, and the "
            "same command with the same --out tries these again"
        )


def _show_published(kind: Kind, directories: list[str] | None, as_json: bool) -> None:
    if directories and len(directories) > 1:
        raise RecipeError("--published takes one run directory")
    from modelsurgery.report.published import print_published, published_json
    from modelsurgery.results import read_results
    from modelsurgery.results.published import published
    from modelsurgery.results.rivals import RivalsResults

    directory = directories[0] if directories else None
    results = None if directory is None else read_results(Path(directory))
    if results is not None and not isinstance(results, RivalsResults):
        raise RecipeError(
            f"{directory}: results of another command; give the run directory of a comparison"
        )
    found = published()
    tables = found.tables_of(kind)
    if as_json:
        print_json(published_json(tables, found, results))
    else:
        print_published(tables, found, results, console())


def _list_methods(kind: Kind, as_json: bool) -> None:
    from modelsurgery.rivals import methods_of

    methods = methods_of(kind)
    if as_json:
        print_json(
            {
                name: {"title": one.title, "source": one.source, "settings": one.settings,
                       "ships as": one.delivery, "note": one.note}
                for name, one in methods.items()
            }
        )  # fmt: skip
        return
    for name, one in methods.items():
        print(f"{name}\n    {one.title} ({one.delivery})\n    {one.source}")
        for line in (one.settings, one.note):
            if line:
                print(f"    {line}")


def _numbers(listed: str, name: str, kind: type[float] | type[int]) -> list[float]:
    try:
        return [kind(one) for one in listed.split(",")]
    except ValueError as error:
        raise RecipeError(f"{name} {listed!r}; expected numbers, separated by commas") from error
