"""Verbs that work on checkpoints and load no model: choose, plan, apply, undo, check."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelsurgery.cli.options import (
    Json,
    LayoutFile,
    ModelArgument,
    chosen_layout,
    model_directory,
)
from modelsurgery.cli.output import print_content, print_differences, showing_progress
from modelsurgery.errors import RecipeError, VerificationError

if TYPE_CHECKING:
    from modelsurgery.edit.edit import Edit

EXPORTS = ("peft", "gguf", "hub")
ModelDirectory = Annotated[Path, typer.Argument(help="Model directory.")]
MOST_NAMED = 3


def plan(
    model: ModelArgument,
    edits: Annotated[list[Path] | None, typer.Argument(help="Edits, if there are any.")] = None,
    layout: LayoutFile = None,
    as_json: Json = False,
) -> None:
    """Say what a surgery finds, reads and writes, before anything is touched."""
    from modelsurgery.apply.plan import plan_surgery
    from modelsurgery.checkpoint.directory import open_checkpoint
    from modelsurgery.edit.edit_file import load_edit

    loaded = [load_edit(path) for path in edits or []]
    checkpoint = open_checkpoint(model_directory(model))
    planned = asdict(plan_surgery(checkpoint, loaded, layout=chosen_layout(layout)))
    content = {"model": str(checkpoint.directory), **planned, **_conflicts(loaded)}
    print_content(content, as_json)


def apply(
    model: ModelArgument,
    edits: Annotated[list[Path], typer.Argument(help="Edits; summed where they meet.")],
    out: Annotated[Path | None, typer.Option(help="Directory of the edited copy.")] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Edit MODEL itself; `surgery undo` goes back.")
    ] = False,
    copy: Annotated[
        bool, typer.Option("--copy", help="With --out: share no files with MODEL.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Edit a model on disk: an edited copy, or in place with a way back; loads no model."""
    from modelsurgery.data.demo import is_embedded
    from modelsurgery.edit.edit_file import load_edit

    if (out is None) != in_place:
        raise RecipeError("give either --out DIR or --in-place, and not both")
    if in_place and is_embedded(model):
        raise RecipeError("the embedded model is part of the package; edit a copy with --out")
    if copy and in_place:
        raise RecipeError("--copy goes with --out; --in-place copies nothing")
    loaded = [load_edit(path) for path in edits]
    directory = model_directory(model)
    content: dict[str, Any]
    if out is None:
        from modelsurgery.apply.in_place import apply_in_place

        with showing_progress() as progress, progress("edit in place", 0):
            done = apply_in_place(directory, loaded)
        content = {
            "directory": str(done.directory),
            **asdict(done.coverage),
            "journal": str(done.journal),
            "put_back_first": done.put_back_first,
            "way_back": f"surgery undo {done.directory}",
        }
    else:
        from modelsurgery.apply.copying import apply_to_copy

        with showing_progress() as progress:
            made = apply_to_copy(directory, loaded, out, real_copies=copy, progress=progress)
        content = {
            "directory": str(made.directory),
            **asdict(made.coverage),
            "shared_files": list(made.shared_files),
            "left_behind": list(made.left_behind),
        }
    print_content({**content, **_conflicts(loaded)}, as_json)


def export(
    model: ModelArgument,
    edits: Annotated[list[Path], typer.Argument(help="Edits; summed where they meet.")],
    to: Annotated[str, typer.Option(help="peft, gguf or hub.")],
    out: Annotated[Path, typer.Option(help="Directory to make; of gguf, the file.")],
    dtype: Annotated[
        str, typer.Option(help="Of adapters: float32, bfloat16 or float16.")
    ] = "float32",
    form: Annotated[str, typer.Option(help="Of hub: adapter or merged.")] = "adapter",
    base_model: Annotated[str | None, typer.Option(help="Id of the base on the Hub.")] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="Of the base [default: what its card says]")
    ] = None,
    push: Annotated[
        str | None, typer.Option(help="Of hub: upload to this owner/name, private if new.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write edits as an adapter for PEFT and vLLM or llama.cpp, or a repository for the Hub."""
    from modelsurgery import export as exporting
    from modelsurgery.checkpoint.directory import open_checkpoint
    from modelsurgery.checkpoint.named_models import published_name
    from modelsurgery.edit.edit_file import load_edit

    if to not in EXPORTS:
        raise RecipeError(f"--to {to!r}; expected one of {', '.join(EXPORTS)}")
    if push is not None and to != "hub":
        raise RecipeError("--push goes with --to hub")
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
    else:
        if form not in ("adapter", "merged"):
            raise RecipeError(f"--form {form!r}; expected adapter or merged")
        with showing_progress() as progress:
            written = exporting.write_repository(
                checkpoint,
                edits,
                out,
                form=form,  # type: ignore[arg-type]
                base_model=name,
                licence=licence,
                progress=progress,
            )
    content = {**asdict(written), **_conflicts(loaded)}
    if push is not None:
        content["pushed_to"] = exporting.push_repository(out, push)
    print_content(content, as_json)


def _conflicts(edits: "list[Edit]") -> dict[str, Any]:
    """What several edits do to each other, one line a pair."""
    from modelsurgery.edit.interactions import conflicts_of, left_out

    lines = [
        f"edit {number + 1} was made on top of an edit that is not given: what was measured with "
        "it holds for both together"
        for number in left_out(edits)
    ]
    lines += [
        f"edits {one.first + 1} and {one.second + 1} {one.verdict}: cosine {one.cosine:+.2f}, "
        f"{one.shared_rows:,} rows shared"
        for one in conflicts_of(edits)
    ]
    return {"together": lines} if lines else {}


def undo(
    directory: ModelDirectory,
    everything: Annotated[bool, typer.Option("--all", help="All surgeries, not the last.")] = False,
    as_json: Json = False,
) -> None:
    """Give a model back the bytes that it had before the last surgery."""
    from modelsurgery.apply.undoing import undo as undo_surgery

    with showing_progress() as progress, progress("put rows back", 0):
        undone = undo_surgery(directory, everything=everything)
    print_content({**asdict(undone), "directory": str(undone.directory)}, as_json)


def verify(directory: ModelDirectory, as_json: Json = False) -> None:
    """Check an edited model, byte for byte, against what is recorded of it."""
    from modelsurgery.apply.verification import verify as verify_directory

    with showing_progress() as progress:
        found = verify_directory(directory, progress=progress)
    content = {**asdict(found), "directory": str(found.directory), "wrong": list(found.wrong)}
    print_content(content, as_json)
    if found.wrong:
        more = len(found.wrong) - MOST_NAMED
        named = "; ".join(found.wrong[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise VerificationError(f"{directory}: {named}")


def diff(
    first: Annotated[str, typer.Argument(help="The base: model directory or id of the Hub.")],
    second: Annotated[str, typer.Argument(help="What to compare with it.")],
    rows: Annotated[int, typer.Option(min=0, help="Rows to list for each tensor.")] = 3,
    as_json: Json = False,
) -> None:
    """List tensors and rows that differ between two models, with norms."""
    from modelsurgery.checkpoint.diff import compare_checkpoints
    from modelsurgery.checkpoint.directory import open_checkpoint

    models = [open_checkpoint(model_directory(name)) for name in (first, second)]
    with showing_progress() as progress:
        found = compare_checkpoints(*models, progress=progress)
    print_differences([asdict(one) for one in found], as_json, rows)
