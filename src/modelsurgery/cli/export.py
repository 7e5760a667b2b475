"""`surgery export`: edits as adapters for other programs, or as a repository for the Hub."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from modelsurgery.cli.apply import edits_together
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
        Literal["peft", "gguf", "mlx", "hub"],
        typer.Option(
            help="peft writes an adapter for PEFT and vLLM, gguf one for llama.cpp, mlx one for "
            "mlx-lm, hub a repository with a model card."
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
        typer.Option(help="With --to hub: publish an adapter or the merged model."),
    ] = "adapter",
    base_model: Annotated[
        str | None, typer.Option(metavar="ID", help="Hub ID of the base model.")
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(
            "--license",
            help="License of the base model." + default_note("the one in its model card"),
        ),
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
    """Write edits as an adapter for PEFT, vLLM, llama.cpp or MLX, or a repository for the Hub."""
    from modelsurgery import export as exporting
    from modelsurgery.checkpoint.directory import open_checkpoint
    from modelsurgery.checkpoint.named_models import published_name
    from modelsurgery.edit.edit_file import load_edit

    if push is not None and to != "hub":
        raise RecipeError("--push needs --to hub")
    checkpoint = open_checkpoint(model_directory(model))
    name = base_model or (None if Path(model).is_dir() else published_name(model))
    loaded = [load_edit(path) for path in edits]
    written: Any
    if to == "peft":
        written = exporting.write_peft_adapter(
            checkpoint, loaded, out, base_model=name, dtype=dtype
        )
    elif to == "gguf":
        written = exporting.write_gguf_adapter(checkpoint, loaded, out, dtype=dtype)
    elif to == "mlx":
        written = exporting.write_mlx_adapter(checkpoint, loaded, out, base_model=name, dtype=dtype)
    else:
        with showing_progress() as progress:
            written = exporting.write_repository(
                checkpoint,
                edits,
                out,
                form=form,
                base_model=name,
                license=license,
                progress=progress,
            )
    content = {**asdict(written), **edits_together(loaded)}
    if push is not None:
        content["pushed_to"] = exporting.push_repository(out, push)
    print_content(content, as_json)
