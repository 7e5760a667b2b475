"""`surgery export`: edits as adapters for other programs, or as a repository for the Hub."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from modelsurgery.cli.apply import copied, edits_together
from modelsurgery.cli.options import (
    EditArguments,
    Json,
    ModelArgument,
    default_note,
    model_directory,
)
from modelsurgery.cli.output import print_content, showing_progress
from modelsurgery.errors import RecipeError


def export(
    model: ModelArgument,
    edits: EditArguments,
    to: Annotated[
        Literal["peft", "gguf", "mlx", "ollama", "hub"],
        typer.Option(
            help="peft writes an adapter for PEFT and vLLM, gguf an adapter for llama.cpp or an "
            "edited GGUF file, mlx an adapter for mlx-lm, ollama a directory with an edited GGUF "
            "file and a Modelfile, hub a repository with a model card."
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="Directory to create; for gguf, a file.")
    ],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option(help="Type of the weights of an adapter."),
    ] = "float32",
    form: Annotated[
        Literal["adapter", "merged"],
        typer.Option(
            help="With --to gguf or hub: write an adapter, or the edited model. For gguf, MODEL is "
            "then the GGUF file to edit."
        ),
    ] = "adapter",
    base_model: Annotated[
        str | None, typer.Option(metavar="ID", help="Hub ID of the base model.")
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(help="License of the base model." + default_note("the one in its model card")),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="With --to hub: upload the repository; a new one is private.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write edits as an adapter, an edited GGUF file, or a repository for the Hub."""
    from modelsurgery.checkpoint.directory import open_checkpoint
    from modelsurgery.checkpoint.named_models import published_name
    from modelsurgery.edit.edit_file import load_edit
    from modelsurgery.export.gguf import write_gguf_adapter, write_merged_gguf
    from modelsurgery.export.hub import push_repository, write_repository
    from modelsurgery.export.mlx import write_mlx_adapter
    from modelsurgery.export.ollama import write_ollama_model
    from modelsurgery.export.peft import write_peft_adapter
    from modelsurgery.files.object_store import refuse_url

    if push is not None and to != "hub":
        raise RecipeError("--push needs --to hub")
    if form == "merged" and to not in ("gguf", "hub"):
        raise RecipeError(f"--form merged and --to {to}; expected --to gguf or --to hub")
    refuse_url(model, "exporting reads a model on a local disk; download it first")
    checkpoint = open_checkpoint(model_directory(model))
    name = base_model or (None if Path(model).is_dir() else published_name(model))
    loaded = [load_edit(path) for path in edits]
    with showing_progress() as progress:
        if to == "hub":
            repository = write_repository(
                checkpoint,
                edits,
                out,
                form=form,
                base_model=name,
                license=license,
                progress=progress,
            )
            content = asdict(repository)
        elif to == "ollama":
            content = asdict(write_ollama_model(checkpoint, loaded, out))
        elif form == "merged":
            made = write_merged_gguf(checkpoint, loaded, out, progress=progress)
            content = copied(made, as_json)
        else:
            write: Any = {
                "peft": partial(write_peft_adapter, base_model=name),
                "mlx": partial(write_mlx_adapter, base_model=name),
                "gguf": write_gguf_adapter,
            }[to]
            content = asdict(write(checkpoint, loaded, out, dtype=dtype))
    if unread := content.get("unread_types"):
        content["note"] = (
            f"rows of type {', '.join(unread)} could not be compared with those that the edit was "
            "made for; see that it is an edit of this model"
        )
    elif not as_json:
        content.pop("unread_types", None)
    content = {**content, **edits_together(loaded)}
    if push is not None:
        content["pushed_to"] = push_repository(out, push)
    print_content(content, as_json)
