"""`surgery plan`, `apply`, `undo`, `verify` and `diff`: checkpoints on disk; no model is loaded."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelsurgery.cli.options import (
    EditArguments,
    Json,
    LayoutFile,
    StoredModelArgument,
    chosen_layout,
    model_directory,
)
from modelsurgery.cli.output import print_content, print_differences, showing_progress
from modelsurgery.errors import RecipeError, VerificationError
from modelsurgery.files.shell import path_word

if TYPE_CHECKING:
    from modelsurgery.apply.arrival import Arrival
    from modelsurgery.apply.copying import EditedCopy
    from modelsurgery.apply.object_copy import CopiedObjects
    from modelsurgery.apply.plan import TypePlan
    from modelsurgery.edit.edit import Edit

ModelDirectory = Annotated[Path, typer.Argument(help="Model: directory or GGUF file.")]
MOST_NAMED = 3
LEAST_COSINE = 0.7  # of an edit with what arrives: below it the rounding is longer than the edit
# What a plan says of local disks alone.
OF_LOCAL_DISKS = {"bytes_free", "bytes_written_in_place", "bytes_written_copy"} | {
    "seconds_in_place",
    "seconds_copy",
}
QUANTIZED_AGAIN = (
    "edited rows are quantized again, with scales of their own; what an importance matrix "
    "(imatrix) chose for them is lost"
)


def plan(
    model: StoredModelArgument,
    edits: Annotated[list[Path] | None, typer.Argument(help="Edit files.")] = None,
    layout: LayoutFile = None,
    as_json: Json = False,
) -> None:
    """Show what applying edits would read and write, without changing anything."""
    from modelsurgery.apply.plan import plan_surgery
    from modelsurgery.checkpoint.directory import open_checkpoint
    from modelsurgery.edit.edit_file import load_edits

    loaded = load_edits(edits or [])
    checkpoint = open_checkpoint(model_directory(model))
    planned = plan_surgery(checkpoint, loaded, layout=chosen_layout(layout))
    content = {"model": str(checkpoint.place), **asdict(planned), **edits_together(loaded)}
    if checkpoint.remote is not None:
        content = {key: one for key, one in content.items() if key not in OF_LOCAL_DISKS}
    if not as_json:
        lines = [_type_line(name, one) for name, one in planned.types.items()]
        content["types"] = lines or None
    if any(one.arrival for one in planned.types.values()):
        content["note"] = QUANTIZED_AGAIN
    content |= _warned({name: one.arrival for name, one in planned.types.items() if one.arrival})
    print_content(content, as_json)


def _type_line(name: str, planned: "TypePlan") -> str:
    """What there is of a quantized type, and what becomes of an edit of it."""
    there = f"{planned.rows:,} rows in {planned.matrices:,} matrices"
    if planned.arrival is None:
        return f"{name}: {there}"
    return f"{name}: {planned.rows_edited:,} of {there} ({_arrival_line(planned.arrival)})"


def _arrival_line(arrival: "Arrival") -> str:
    return (
        f"{arrival.arrives:.1%} of the edit arrives; its cosine with what arrives is "
        f"{arrival.cosine:.3f}, the ratio of lengths {arrival.length:.3f}"
    )


def apply(
    model: StoredModelArgument,
    edits: EditArguments,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE|URL",
            help="Directory for the edited copy; for a GGUF file, the file (.gguf); for a model in "
            "an object store, s3://BUCKET/FOLDER.",
        ),
    ] = None,
    in_place: Annotated[
        bool,
        typer.Option("--in-place", help="Edit the model itself; surgery undo reverts it."),
    ] = False,
    copy: Annotated[
        bool,
        typer.Option("--copy", help="With --out: copy all files instead of hard-linking some."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Apply edits to a model on disk: to a copy, or reversibly in place."""
    from modelsurgery.data.demo import is_demo_model
    from modelsurgery.edit.edit_file import load_edits
    from modelsurgery.files.object_store import is_url

    if (out is None) != in_place:
        raise RecipeError("give either --out DIR|FILE or --in-place")
    if in_place and is_demo_model(model):
        raise RecipeError("the demo model is part of the package; edit a copy with --out")
    if copy and in_place:
        raise RecipeError("--copy needs --out; --in-place copies nothing")
    loaded = load_edits(edits)
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
            **_removed(done.records_removed),
            **_arrived(done.arrival, as_json),
            "way_back": f"surgery undo {path_word(done.directory)}",
        }
    elif is_url(model) and is_url(out):
        from modelsurgery.apply.object_copy import apply_to_object_store

        with showing_progress() as progress, _ending_tidily():
            copied_there = apply_to_object_store(model, loaded, out, progress=progress)
        content = _copied_there(copied_there)
    else:
        from modelsurgery.apply.copying import apply_to_copy

        with showing_progress() as progress:
            made = apply_to_copy(directory, loaded, out, real_copies=copy, progress=progress)
        content = copied(made, as_json)
    print_content({**content, **edits_together(loaded)}, as_json)


@contextmanager
def _ending_tidily() -> Iterator[None]:
    """Let SIGTERM end a surgery as Ctrl-C does, where something elsewhere has to be tidied up."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def copied(made: "EditedCopy", as_json: bool) -> dict[str, Any]:
    """What is printed of an edited copy."""
    return {
        "directory": str(made.directory),
        **asdict(made.coverage),
        "shared_files": list(made.shared_files),
        "left_behind": list(made.left_behind),
        **_arrived(made.arrival, as_json),
    }


def _removed(count: int) -> dict[str, Any]:
    """What is said of records that were removed because the model was replaced."""
    if not count:
        return {}
    why = "the model has the original rows already, so nothing was left to undo of these surgeries"
    return {"records_removed": count, "removed_because": why}


def _copied_there(made: "CopiedObjects") -> dict[str, Any]:
    """What is printed of an edited copy in an object store."""
    content = asdict(made)
    share = (made.bytes_received + made.bytes_sent) / max(made.coverage.bytes_total, 1)
    return {
        "directory": content.pop("url"),
        **content.pop("coverage"),
        **content,
        "share_moved": share,
        "checked": "sizes, headers and changed rows; what the server copied was not read back",
    }


def _arrived(arrival: "dict[str, Arrival]", as_json: bool) -> dict[str, Any]:
    """How much of the edits arrived in quantized rows; nothing of other models."""
    if not arrival:
        return {}
    lines = [f"{dtype}: {_arrival_line(one)}" for dtype, one in arrival.items()]
    found = {dtype: asdict(one) for dtype, one in arrival.items()}
    return {
        "arrival": found if as_json else lines,
        "note": QUANTIZED_AGAIN,
        **_warned(arrival),
    }


def _warned(arrival: "dict[str, Arrival]") -> dict[str, str]:
    """A warning where rounding does more than the edit."""
    weak = [dtype for dtype, one in arrival.items() if one.cosine < LEAST_COSINE]
    if not weak:
        return {}
    return {
        "warning": f"most of the change of rows of type {', '.join(weak)} is rounding and not the "
        "edit; use a larger strength, or a type with more bits"
    }


def undo(
    directory: ModelDirectory,
    everything: Annotated[
        bool, typer.Option("--all", help="Undo all edits, not just the last.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Restore the bytes that a model had before the last edit."""
    from modelsurgery.apply.undoing import undo as undo_surgery

    with showing_progress() as progress, progress("put rows back", 0):
        undone = undo_surgery(directory, everything=everything)
    content = {**asdict(undone), "directory": str(undone.directory)}
    print_content({**content, **_removed(undone.records_removed)}, as_json)


def verify(directory: ModelDirectory, as_json: Json = False) -> None:
    """Check every byte of an edited model against its record."""
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
    first: Annotated[str, typer.Argument(help="Base model: directory, GGUF file or Hub ID.")],
    second: Annotated[str, typer.Argument(help="Model to compare with it.")],
    rows: Annotated[int, typer.Option(min=0, help="Number of rows to list per tensor.")] = 3,
    as_json: Json = False,
) -> None:
    """List the tensors and rows that differ between two models, with norms."""
    from modelsurgery.checkpoint.diff import compare_checkpoints
    from modelsurgery.checkpoint.directory import open_checkpoint

    models = [open_checkpoint(model_directory(name)) for name in (first, second)]
    with showing_progress() as progress:
        found = compare_checkpoints(*models, progress=progress)
    print_differences([asdict(one) for one in found], as_json, rows)


def edits_together(edits: "list[Edit]") -> dict[str, Any]:
    """What several edits do to each other, one line a pair."""
    from modelsurgery.edit.interactions import conflicts_of, left_out

    lines = [
        f"edit {number + 1} was made on top of an edit that is not given: what was measured with "
        "it holds for both together"
        for number in left_out(edits)
    ]
    lines += [
        f"edits {one.first + 1} and {one.second + 1} {one.verdict}: cosine of the changes "
        f"{one.cosine_of_changes:+.2f}, {one.shared_rows:,} rows shared"
        for one in conflicts_of(edits)
    ]
    return {"together": lines} if lines else {}
