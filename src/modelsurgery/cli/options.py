"""Options of the verbs, made from the fields of plans, which declare type, help and panel."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin

import typer
from annotated_types import Ge, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.markup import escape

from modelsurgery.checkpoint.place import is_gguf
from modelsurgery.errors import RecipeError
from modelsurgery.pipeline.grid_recipe import GridRecipe
from modelsurgery.pipeline.option import Option, Panel
from modelsurgery.pipeline.recipe import Recipe

if TYPE_CHECKING:
    from modelsurgery.checkpoint.layouts import GateLayout
    from modelsurgery.pipeline.grids import Executor

# Fields that are given on to `load_model` and `load_texts`.
LOADING = ("device", "max_memory", "offload", "dtype")
COLUMNS = ("text_column", "label_column")
Verb = TypeVar("Verb", bound=Callable[..., None])


def option(
    field: str, plan: type[BaseModel] = GridRecipe, *, default: str | None = None, more: str = ""
) -> Any:
    """The option of a plan's field, for the `Annotated` type of a verb's parameter.

    Args:
        field: its name.
        plan: a recipe or another pydantic model.
        default: what applies without it, where that is not what applies to the plan; empty where
            there is nothing to say.
        more: is added to the description.
    """
    info, declared = _declared(field, plan)
    if default is None:
        is_said = info.default is None or isinstance(info.default, bool | tuple)
        default = declared.default or ("" if is_said else str(info.default))
    described = escape(f"{info.description}{more and ' '}{more}")
    limits = {type(one): one for one in info.metadata}
    least, most = limits.get(Ge), limits.get(Le)
    return typer.Option(
        declared.name,
        help=described + default_note(default),
        rich_help_panel=declared.panel,
        metavar=declared.metavar or ("N" if least or most else None),
        min=least and least.ge,
        max=most and most.le,
        show_default=False,
    )


def default_note(default: str) -> str:
    """What a help text says, behind all else, of what applies without the option."""
    return f" [dim]{escape(f'[default: {default}]')}[/dim]" if default else ""


def with_options(
    plan: type[BaseModel], fields: str | Iterable[str], *, defaults: Mapping[str, str] | None = None
) -> Callable[[Verb], Verb]:
    """Give a verb an option for each of these fields of a plan, in this order.

    They take the place of the verb's `**typed`, which is given what was typed by names of fields,
    and None for the others (`typed_values`).

    Args:
        plan: a recipe or another pydantic model.
        fields: names, in a string with spaces between them too. That of a keyword parameter which
            the verb declares itself stands for its option.
        defaults: by name, what applies without the option, where the plan says something else.
    """
    names = fields.split() if isinstance(fields, str) else fields

    def decorate(verb: Verb) -> Verb:
        signature = inspect.signature(verb)
        own = {
            name: one for name, one in signature.parameters.items() if one.kind != one.VAR_KEYWORD
        }
        options = [
            own.pop(name) if name in own else _parameter(name, plan, (defaults or {}).get(name))
            for name in names
        ]
        first = [one for one in own.values() if one.kind is one.POSITIONAL_OR_KEYWORD]
        last = [one for one in own.values() if one.kind is one.KEYWORD_ONLY]
        verb.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*first, *options, *last]
        )
        return verb

    return decorate


def _parameter(field: str, plan: type[BaseModel], default: str | None) -> inspect.Parameter:
    return inspect.Parameter(
        field,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[_typed_as(field, plan) | None, option(field, plan, default=default)],
    )


def optional_fields(plan: type[BaseModel], *, without: Collection[str] = ()) -> list[str]:
    """Fields that have an option, in the order of panels and of declaration.

    Of two with the same option, as `behavior` and `behaviors`, the latter stands beside the former.
    """
    declared = {
        name: _declared(name, plan)[1]
        for name, info in plan.model_fields.items()
        if any(isinstance(one, Option) for one in info.metadata)
    }
    panels, words = list(Panel), [one.name for one in declared.values()]
    return sorted(
        [name for name in declared if name not in without],
        key=lambda name: (panels.index(declared[name].panel), words.index(declared[name].name)),
    )


def typed_values(
    typed: dict[str, Any],
    plan: type[BaseModel] = GridRecipe,
    *,
    only: Iterable[str] | None = None,
) -> dict[str, Any]:
    """Keys and values of a plan that were typed.

    Args:
        typed: by names of fields; None or empty where nothing was typed.
        plan: a recipe or another pydantic model.
        only: the fields that are asked for; None asks for all.

    Raises:
        RecipeError: a value that cannot be read.
    """
    values = {}
    for name in typed if only is None else only:
        value, read = typed[name], _declared(name, plan)[1].read
        if value is not None and value != []:
            values[name] = value if read is None else read(value)
    return values


def _declared(field: str, plan: type[BaseModel]) -> tuple[FieldInfo, Option]:
    """What a plan says of a field and of its option, which has a name."""
    info = plan.model_fields[field]
    declared = next(one for one in info.metadata if isinstance(one, Option))
    return info, replace(declared, name=declared.name or f"--{field.replace('_', '-')}")


def _typed_as(field: str, plan: type[BaseModel]) -> Any:
    """The type that Typer reads a field's option as."""
    info, declared = _declared(field, plan)
    if declared.read is not None:
        return str
    kind: Any = info.annotation
    if get_origin(kind) in (Union, UnionType):
        kind = next(one for one in get_args(kind) if one is not NoneType)
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) is tuple:  # of any length: an option that can be repeated
        entry = get_args(kind)[0]
        return list[str] if get_origin(entry) in (Union, UnionType) else list[entry]  # type: ignore[valid-type]
    return kind


Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result as one JSON object.", rich_help_panel=Panel.OUTPUT
    ),
]
ShowOffensive = Annotated[
    bool,
    typer.Option(
        "--show-offensive",
        help="Do not mask offensive text. JSON output is never masked.",
        rich_help_panel=Panel.OUTPUT,
    ),
]
ModelArgument = Annotated[str, typer.Argument(help=Recipe.model_fields["model"].description)]
# Of verbs that read headers and rows only.
StoredModelArgument = Annotated[
    str,
    typer.Argument(
        help=f"{Recipe.model_fields['model'].description} Or s3://BUCKET/FOLDER, in an object "
        "store."
    ),
]
EditArguments = Annotated[list[Path], typer.Argument(help="Edit files, applied together.")]

Prompts = Annotated[Path | None, option("prompts")]
Neutral = Annotated[Path | None, option("neutral")]
DataRoot = Annotated[Path | None, option("data")]
Seed = Annotated[int, option("seed")]
LayoutFile = Annotated[Path | None, option("layout")]

Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Measure in N processes on this machine.",
        rich_help_panel=Panel.GRID,
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Measure on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local to start one.",
        rich_help_panel=Panel.GRID,
    ),
]
Gpus = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        min=0,
        help="GPUs per task with --ray; with a fraction such as 0.5, tasks share a GPU."
        + default_note("0"),
        rich_help_panel=Panel.GRID,
    ),
]
Cpus = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="CPU cores per task with --ray." + default_note("1"),
        rich_help_panel=Panel.GRID,
    ),
]


def chosen_executor(
    workers: int | None, ray: str | None, gpus: float | None, cpus: int | None
) -> "Executor | None":
    """Who measures the cells of a grid; None where nobody was chosen.

    Raises:
        RecipeError: options that do not go together.
    """
    if workers is not None and ray is not None:
        raise RecipeError("give either --workers or --ray, not both")
    if ray is None and (gpus is not None or cpus is not None):
        given = "--gpus" if gpus is not None else "--cpus"
        raise RecipeError(f"{given} is for tasks on a cluster; give --ray too, or omit it")
    from modelsurgery.pipeline.grids import OnRay, Processes

    if ray is not None:
        return OnRay(ray, gpus or 0.0, cpus or 1)
    return None if workers is None else Processes(workers)


def model_directory(name: str) -> Path:
    """Directory of a model given as a directory, a name, an id of the Hub, or `demo`.

    A GGUF file stays what it is: whoever loads it makes a directory of it. So does a URL.
    """
    from modelsurgery.data.demo import demo_model_path, is_demo_model
    from modelsurgery.files.object_store import is_url

    if is_demo_model(name):
        return demo_model_path()
    if Path(name).is_dir() or is_gguf(name) or is_url(name):
        return Path(name)
    from modelsurgery.model.loading import resolve_model_directory

    return resolve_model_directory(name)


def chosen_layout(path: Path | None) -> "GateLayout | None":
    """The layout that a user wrote, if any."""
    from modelsurgery.checkpoint.layouts import load_layout

    return None if path is None else load_layout(path)
