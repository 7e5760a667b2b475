"""`surgery evaluate`: a model and its edits on a behavior, and what broke."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelsurgery.checkpoint.place import is_gguf
from modelsurgery.cli.options import (
    EDIT_FILES,
    Behavior,
    DataRoot,
    Device,
    DType,
    Json,
    LayoutFile,
    Limit,
    MaxMemory,
    ModelArgument,
    Neutral,
    Now,
    Offload,
    Prompts,
    TaskLimit,
    TemplateName,
    default_note,
    option,
)
from modelsurgery.cli.output import console, print_json, using_a_model
from modelsurgery.errors import RecipeError
from modelsurgery.pipeline.option import Panel
from modelsurgery.pipeline.recipe import DEFAULT_BEHAVIOR

if TYPE_CHECKING:
    from modelsurgery.edit.edit import Edit
    from modelsurgery.pipeline.evaluating import EvaluationRun

Judges = Annotated[
    list[str] | None,
    option(
        "judge",
        more="Repeatable: the first judge decides, and agreement with the others is reported.",
    ),
]
MEASURING = str(Panel.MEASURING)


def evaluate(
    model: ModelArgument,
    edit: Annotated[list[Path] | None, EDIT_FILES] = None,
    edited: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --backend llama.cpp: GGUF file with the edit, to measure instead of an "
            "adapter.",
            rich_help_panel=str(Panel.MODEL),
        ),
    ] = None,
    behavior: Behavior = DEFAULT_BEHAVIOR,
    out: Annotated[Path | None, option("out")] = None,
    prompts: Prompts = None,
    neutral: Neutral = None,
    data: DataRoot = None,
    judge: Judges = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME",
            help="Prompt set to use. Repeatable." + default_note("all"),
            rich_help_panel=MEASURING,
        ),
    ] = None,
    limit: Limit = None,
    samples: Annotated[
        int,
        typer.Option(
            help="Sampled continuations per prompt; 0 means one greedy continuation.",
            rich_help_panel=MEASURING,
        ),
    ] = 0,
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK",
            help="Capability task: wikitext, lambada, gsm8k, bbh, mmlu, tydiqa, or any task of "
            "lm-evaluation-harness. Repeatable.",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    include_path: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Directory with your own task files for lm-evaluation-harness (YAML).",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    task_limit: TaskLimit = None,
    max_new_tokens: Annotated[int | None, option("max_new_tokens")] = None,
    export_for_review: Annotated[
        int | None,
        typer.Option(
            help="Number of continuations to write to a sheet for a person to label.",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File to reuse continuations and judgments from and save them to.",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    seed: Annotated[int | None, option("seed", default="the edit's seed, or 0")] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="transformers|llama.cpp|server",
            help="What generates the continuations."
            + default_note("transformers, or server with --server"),
            rich_help_panel=str(Panel.MODEL),
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Server that runs the model: vLLM or SGLang, which load the edit as an adapter, "
            "or llama.cpp, started with it.",
            rich_help_panel=str(Panel.MODEL),
        ),
    ] = None,
    server_model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The server's name of the model." + default_note("the first it serves"),
            rich_help_panel=str(Panel.MODEL),
        ),
    ] = None,
    adapter_dir: Annotated[
        str | None,
        typer.Option(
            metavar="DIR[:DIR]",
            help="Directory that the server can read adapters from; after the colon, the server's "
            "name of it." + default_note("a temporary directory"),
            rich_help_panel=str(Panel.MODEL),
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Requests to the server at a time."
            + default_note("32, or llama.cpp's number of slots"),
            rich_help_panel=str(Panel.MODEL),
        ),
    ] = None,
    layout: LayoutFile = None,
    chat_template: TemplateName = None,
    now: Now = None,
    device: Device = None,
    max_memory: MaxMemory = None,
    offload: Offload = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Measure a behavior before and after an edit, and the damage. Resumes if interrupted."""
    _check_edited(edited, edit or [], backend)
    with using_a_model() as progress:
        from modelsurgery.edit.edit_file import load_edits

        given = load_edits(edit or [])
        from modelsurgery.data.behaviors import describe_behavior
        from modelsurgery.data.behaviors.roots import data_root
        from modelsurgery.files.schema import parse
        from modelsurgery.pipeline.evaluating import EvaluationPlan, run_evaluation

        described = describe_behavior(behavior).with_own(prompts=prompts, neutral=neutral)
        options = {
            "model": model,
            "edits": edit or (),
            "edited": edited,
            "behavior": described.with_length(max_new_tokens),
            "data": data_root(data),
            "judges": judge or (),
            "sets": sets or None,
            "limit": limit,
            "samples": samples,
            "tasks": task or (),
            "task_limit": task_limit,
            "include_path": include_path,
            "export_for_review": export_for_review,
            "backend": backend or ("server" if server else "transformers"),
            "server": server,
            "server_model": server_model,
            "adapter_dir": adapter_dir,
            "concurrency": concurrency,
            "seed": _seed_of(given) if seed is None else seed,
            "device": device,
            "max_memory": max_memory,
            "offload": offload,
            "dtype": dtype,
            "layout": layout,
            "chat_template": chat_template,
            "now": now,
            "store": store,
            "out": out,
        }
        result = run_evaluation(parse(options, EvaluationPlan, "options"), progress=progress)
    if as_json:
        content = result.evaluation.to_json()
        print_json({**content, "speed": result.speed, "run_directory": str(result.directory)})
    else:
        _print_result(result)


def _print_result(result: "EvaluationRun") -> None:
    from modelsurgery.report.evaluation import print_evaluation

    print_evaluation(result.evaluation.results(), console())
    print(f"everything is in {result.directory}")
    print(f"to look at it: {result.directory}/report.html")


def _seed_of(edits: "list[Edit]") -> int:
    """The seed of the edits, so that texts which chose them are not measured on."""
    seeds = [one.provenance.seed for one in edits]
    return next((one for one in seeds if one is not None), 0)


def _check_edited(edited: Path | None, edits: list[Path], backend: str | None) -> None:
    """Refuse what cannot go with `--edited` before slow imports."""
    if edited is None:
        return
    if backend != "llama.cpp":
        raise RecipeError("--edited needs --backend llama.cpp, which runs the file")
    if not edits:
        raise RecipeError("--edited needs --edit too: the edit that was applied to the file")
    if not is_gguf(edited) or not edited.is_file():
        raise RecipeError(f"--edited {edited}; expected a GGUF file that is there")
