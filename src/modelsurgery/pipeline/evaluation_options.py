"""What `surgery evaluate` measures on which model, with the options of its fields.

Apart from `evaluating`, so that `--help` imports neither torch nor what reads public data sets.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from modelsurgery.checkpoint.place import is_gguf
from modelsurgery.data import demo
from modelsurgery.errors import RecipeError
from modelsurgery.pipeline.loading_options import (
    Device,
    DType,
    LayoutFile,
    MaxMemory,
    Now,
    Offload,
    TemplateName,
)
from modelsurgery.pipeline.option import Option, Panel
from modelsurgery.pipeline.recipe import DataRoot, Out, Recipe, Seed

Count = Annotated[int, Field(ge=1)]
Backend = Literal["transformers", "llama.cpp", "server"]


def current_backend(name: str) -> str:
    """The name of a backend.

    Raises:
        RecipeError: it is one of an earlier version.
    """
    if name == "vllm":
        from modelsurgery.evaluation.generation.serving import VLLM_COMMAND

        raise RecipeError(
            f"backend 'vllm' was removed; start vLLM as a server with `{VLLM_COMMAND}` and use "
            "--server http://localhost:8000/v1"
        )
    return name


class EvaluationOptions(BaseModel):
    """What to measure on which model (`evaluating.EvaluationPlan`).

    Interrupted evaluations go on where fields and their order are the same (`runs.open_run`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str, AfterValidator(demo.current_name)]
    edits: Annotated[
        tuple[Path, ...],
        Field(description="Edit file. Repeatable."),
        Option(Panel.EVERYDAY, name="--edit", metavar="FILE"),
    ] = ()
    edited: Annotated[
        Path | None,
        Field(
            description="With --backend llama.cpp: GGUF file with the edit, to measure instead of "
            "an adapter."
        ),
        Option(Panel.MODEL, metavar="FILE"),
    ] = None
    behavior: Any  # the content of its file, for which a plan has the type
    data: DataRoot = None
    judges: Annotated[
        tuple[str, ...],
        Field(
            description=f"{Recipe.model_fields['judge'].description} Repeatable: the first judge "
            "decides, and agreement with the others is reported."
        ),
        Option(Panel.MEASURING, "the behavior's judge", name="--judge", metavar="JUDGE"),
    ] = ()
    sets: Annotated[
        tuple[str, ...] | None,
        Field(description="Prompt set to use. Repeatable."),
        Option(Panel.MEASURING, "all", name="--set", metavar="NAME"),
    ] = None
    limit: Annotated[
        Count | None,
        Field(description="Maximum number of prompts per set."),
        Option(Panel.MEASURING),
    ] = None
    samples: Annotated[
        int,
        Field(
            ge=0,
            description="Sampled continuations per prompt; 0 means one greedy continuation.",
        ),
    ] = 0
    tasks: Annotated[
        tuple[str, ...],
        Field(
            description="Capability task: wikitext, lambada, gsm8k, bbh, mmlu, tydiqa, or any task "
            "of lm-evaluation-harness. Repeatable."
        ),
        Option(Panel.MEASURING, name="--task", metavar="TASK"),
    ] = ()
    include_path: Annotated[
        Path | None,
        Field(description="Directory with your own task files for lm-evaluation-harness (YAML)."),
        Option(Panel.MEASURING, metavar="DIR"),
    ] = None
    task_limit: Annotated[
        Count | None,
        Field(description="Maximum number of items per task."),
        Option(Panel.MEASURING),
    ] = None
    export_for_review: Annotated[
        Count | None,
        Field(description="Number of continuations to write to a sheet for a person to label."),
        Option(Panel.MEASURING),
    ] = None
    backend: Annotated[
        Backend,
        BeforeValidator(current_backend),
        Field(description="What generates the continuations."),
        Option(
            Panel.MODEL,
            "transformers, or server with --server",
            metavar="transformers|llama.cpp|server",
            read=str,
        ),
    ] = "transformers"
    server: Annotated[
        str | None,
        Field(
            description="Server that runs the model: vLLM or SGLang, which load the edit as an "
            "adapter, or llama.cpp, started with it."
        ),
        Option(Panel.MODEL, metavar="URL"),
    ] = None
    server_model: Annotated[
        str | None,
        Field(description="The server's name of the model."),
        Option(Panel.MODEL, "the first it serves", metavar="NAME"),
    ] = None
    adapter_dir: Annotated[
        str | None,
        Field(
            description="Directory that the server can read adapters from; after the colon, the "
            "server's name of it."
        ),
        Option(Panel.MODEL, "a temporary directory", metavar="DIR[:DIR]"),
    ] = None
    concurrency: Annotated[
        int | None,
        Field(ge=1, description="Requests to the server at a time."),
        Option(Panel.MODEL, "32, or llama.cpp's number of slots"),
    ] = None
    seed: Annotated[Seed, Option(Panel.MEASURING, "the edit's seed, or 0")] = 0
    device: Device = None
    max_memory: MaxMemory = None
    offload: Offload = None
    dtype: DType = None
    revision: Annotated[str | None, Field(description="Revision of a model on the Hub.")] = None
    layout: LayoutFile = None
    chat_template: TemplateName = None
    now: Now = None
    store: Annotated[
        Path | None,
        Field(description="File to reuse continuations and judgments from and save them to."),
        Option(Panel.MEASURING, metavar="FILE"),
    ] = None
    out: Out = None


def check_edited(edited: Path | None, edits: Sequence[Path], backend: str | None) -> None:
    """Refuse what cannot go with a file that has the edits.

    Raises:
        RecipeError: another backend, no edits, or no such file.
    """
    if edited is None:
        return
    if backend != "llama.cpp":
        raise RecipeError("--edited needs --backend llama.cpp, which runs the file")
    if not edits:
        raise RecipeError("--edited needs --edit too: the edit that was applied to the file")
    if not is_gguf(edited) or not edited.is_file():
        raise RecipeError(f"--edited {edited}; expected a GGUF file that is there")
