"""`surgery inspect`: what a file holds, and with a model what that does inside it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelsurgery.cli.options import Device, DType, Json, ShowOffensive, model_directory
from modelsurgery.cli.output import print_content, print_json, showing_progress
from modelsurgery.errors import RecipeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from modelsurgery.edit.edit import Edit
    from modelsurgery.interpret import Inside
    from modelsurgery.model.language_model import LanguageModel

TABLES = ("explanation", "inside", "with")  # parts of the answer that are shown as tables


def inspect(
    file: Annotated[Path, typer.Argument(help="Probe, edit, journal or model directory.")],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|ID",
            help="Show what the edit does inside this model: tokens, neurons, layers.",
        ),
    ] = None,
    others: Annotated[
        list[Path] | None,
        typer.Option("--with", metavar="FILE", help="Edit to compare with. Repeatable."),
    ] = None,
    show_offensive: ShowOffensive = False,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Describe a probe, an edit, a journal, or the edits applied to a model."""
    from modelsurgery.files.artifact import is_artifact

    if file.is_file() and is_artifact(file, "edit"):
        content = _edit(file, model, others or [], device, dtype)
    elif others:
        raise RecipeError(f"{file} is not an edit; --with compares edits")
    else:
        content = _other(file, model, device, dtype)
    if as_json:
        print_json(content)
        return
    print_content({key: value for key, value in content.items() if key not in TABLES}, False)
    _print_tables(content, show_offensive)


def _print_tables(content: dict[str, Any], show_offensive: bool) -> None:
    from rich.console import Console

    from modelsurgery.report.explained import print_explanation
    from modelsurgery.report.inside import print_comparisons, print_inside, print_probe

    console = Console()
    if content.get("explanation") is not None:
        print_explanation(content["explanation"], console)
    if "inside" in content:
        show = print_inside if content["kind"] == "edit" else print_probe
        show(content["inside"], console, show_offensive=show_offensive)
    print_comparisons(content.get("with", []), console)


def _other(file: Path, model: str | None, device: str | None, dtype: str | None) -> dict[str, Any]:
    """What is known of a journal, a model or a probe."""
    from modelsurgery.apply.journal import is_journal, journal_json, load_journal
    from modelsurgery.apply.manifest import SURGERY_MANIFEST
    from modelsurgery.edit.probe import load_probe, probe_json

    is_probe = not (is_journal(file) or file.is_dir() or file.name == SURGERY_MANIFEST)
    if model is not None and not is_probe:
        raise RecipeError(f"{file} is neither an edit nor a probe; --model needs one of them")
    directory = file if file.is_dir() else file.parent
    if is_journal(file):
        return journal_json(load_journal(directory))
    if not is_probe:
        return _surgeries(directory)
    probe = load_probe(file)
    content = probe_json(probe)
    if model is None:
        return content

    with showing_progress():
        from modelsurgery.interpret import read_probe

        seen = read_probe(_loaded(model, None, device, dtype), probe)
    return {**content, "inside": seen.to_json()}


def _edit(
    file: Path, name: str | None, others: list[Path], device: str | None, dtype: str | None
) -> dict[str, Any]:
    """What is known of an edit, inside a model and beside other edits."""
    from modelsurgery.edit.edit_file import edit_json, load_edit
    from modelsurgery.edit.explanation import explain

    edit = load_edit(file)
    explained = explain(edit)
    content = edit_json(edit)
    content["explanation"] = None if explained is None else explained.to_json()
    compared = [(path, load_edit(path)) for path in others]
    comparisons = [_comparison(edit, path, other) for path, other in compared]
    if name is not None:
        with showing_progress() as progress:
            from modelsurgery.interpret import look_inside, nearest_rows

            model = _loaded(name, edit, device, dtype)
            seen = look_inside(model, edit, direction=_direction(edit), progress=progress)
            content["inside"] = seen.to_json()
            for one, (_, other) in zip(comparisons, compared, strict=True):
                found = nearest_rows(model, _addresses(seen), other)
                one["nearest"] = [vars(neighbor) for neighbor in found]
    if compared:
        content["with"] = comparisons
    return content


def _comparison(edit: "Edit", path: Path, other: "Edit") -> dict[str, Any]:
    from modelsurgery.edit.interactions import conflicts_of

    (found,) = conflicts_of((edit, other))
    return {
        "edit": str(path),
        "verdict": found.verdict,
        "cosine": found.cosine,
        "rows": list(found.rows),
        "shared_rows": found.shared_rows,
        "changed": found.first_changed,
        "other_changed": found.second_changed,
        "nearest": None,
    }


def _loaded(
    name: str, edit: "Edit | None", device: str | None, dtype: str | None
) -> "LanguageModel":
    from modelsurgery.model.loading import load_model

    layout = None if edit is None else edit.layout
    return load_model(model_directory(name), device=device, dtype=dtype, layout=layout)


def _direction(edit: "Edit") -> "NDArray[np.float32]":
    """The direction that most of an edit's rows get; of a sum of edits there are several."""
    from collections import Counter

    rows: Counter[bytes] = Counter()
    directions = {update.direction.tobytes(): update.direction for update in edit.updates}
    for update in edit.updates:
        rows[update.direction.tobytes()] += len(update.rows)
    if not rows:
        raise RecipeError("the edit has no rows, so it does nothing inside a model")
    return directions[min(rows, key=lambda key: (-rows[key], key))]


def _addresses(seen: "Inside") -> list[Any]:
    from modelsurgery.checkpoint.layouts import Address

    return [
        (Address(one.layer - 1, one.branch, -1 if one.expert is None else one.expert), one.row)
        for one in seen.neurons
    ]


def _surgeries(directory: Path) -> dict[str, Any]:
    from modelsurgery.apply.manifest import read_manifest

    manifest = read_manifest(directory)
    if not manifest.operations:
        raise RecipeError(
            f"{directory}: no surgery is recorded here; expected a probe, an edit, "
            "a journal or an edited model"
        )
    return {
        "kind": "model",
        "surgeries": [one.model_dump() for one in manifest.operations],
        "tensors_recorded": sum(len(one.tensors) for one in manifest.weights.values()),
    }
