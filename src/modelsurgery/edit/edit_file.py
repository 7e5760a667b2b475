"""The file of an edit: one artifact of less than 1 MB for a 7B model (see `save_edit`)."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsurgery.checkpoint.layouts import Address, layout_from_json
from modelsurgery.checkpoint.rows import ROW_DTYPES
from modelsurgery.edit.edit import Edit, RowUpdate
from modelsurgery.edit.effects import Measurement, Prediction
from modelsurgery.errors import ArtifactError, RecipeError
from modelsurgery.files.artifact import read_artifact, write_artifact
from modelsurgery.files.atomic import writable_json
from modelsurgery.files.provenance import Provenance

FORMAT_VERSION = 2
# What reading a malformed file raises. OverflowError: integers that float() cannot hold.
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecipeError)


def save_edit(edit: Edit, path: Path | str) -> None:
    """Write an edit to a safetensors file. The same edit gives the same bytes.

    The file appears only when it is complete. docs/formats.md describes its content: `directions`
    [m, d] float32, for each update i `rows.i` int32 [k] and `coefficients.i` float32 [k], with
    predictions `gains.i` and `prices.i` float32 [k], of a bound edit `samples.i` float16 [k, s] (a
    few values of the rows that it was made for), and one metadata entry with the rest as JSON.

    Args:
        edit: the edit.
        path: file to write.

    Raises:
        StorageError: the file cannot be written.

    Example:
        >>> save_edit(edit.scaled(0.5), "half.safetensors")
    """
    directions = {update.direction.tobytes(): update.direction for update in edit.updates}
    places = {content: place for place, content in enumerate(directions)}
    tensors: dict[str, NDArray[Any]] = {}
    described = []
    for number, update in enumerate(edit.updates):
        tensors[f"rows.{number}"] = update.rows
        tensors[f"coefficients.{number}"] = update.coefficients
        if update.predicted is not None:
            tensors[f"gains.{number}"] = update.predicted.gains
            tensors[f"prices.{number}"] = update.predicted.prices
        if update.base_samples is not None:
            tensors[f"samples.{number}"] = update.base_samples
        described.append(
            {
                "tensor": update.tensor,
                "address": list(update.address),
                "shape": list(update.shape),
                "dtype": update.dtype,
                "direction": places[update.direction.tobytes()],
                "base_rows_sha256": update.base_rows_sha256,
            }
        )
    stacked = np.stack([*directions.values()]) if directions else np.empty((0, 0), np.float32)
    tensors["directions"] = stacked
    description: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "alpha": edit.alpha,
        "strength": edit.strength,
        "candidate_rows": edit.candidate_rows,
        "updates": described,
        "provenance": edit.provenance.to_json(),
        "layout": edit.layout.model_dump() if edit.layout else None,
    }
    if edit.measured is not None:
        description["measured"] = edit.measured.to_json()
    write_artifact(path, "edit", tensors, description)


def load_edits(paths: Sequence[Path]) -> list[Edit]:
    """Read edits that are applied together.

    Raises:
        ArtifactError: a file is missing, damaged, not an edit, or of a newer format.
        RecipeError: two are the same edit, which would be doubled.
    """
    edits = [load_edit(path) for path in paths]
    first: dict[str, Path] = {}
    for path, edit in zip(paths, edits, strict=True):
        known = first.setdefault(edit.content_sha256, path)
        if known is not path:
            also = "" if str(known) == str(path) else f", the other time as {known}"
            raise RecipeError(
                f"{path}: this edit is given twice{also}; give it once, with a larger strength if "
                "its effect is to be larger"
            )
    return edits


def load_edit(path: Path | str) -> Edit:
    """Read an edit file and check its content.

    Args:
        path: file to read.

    Returns:
        The edit.

    Raises:
        ArtifactError: the file is missing, damaged, not an edit, or of a newer format.

    Example:
        >>> edit = load_edit("edit.safetensors")
    """
    path = Path(path)
    tensors, description = read_artifact(path, "edit")
    if description.get("format") != FORMAT_VERSION:
        raise ArtifactError(
            f"{path}: format {description.get('format')}; this version reads format "
            f"{FORMAT_VERSION}, update modelsurgery"
        )
    try:
        updates = tuple(
            _update(tensors, number, entry) for number, entry in enumerate(description["updates"])
        )
        alpha, strength = float(description["alpha"]), float(description["strength"])
        if not (math.isfinite(alpha) and math.isfinite(strength)):
            raise ValueError("its alpha or strength is not finite")
        candidate_rows = int(description["candidate_rows"])
        origin = Provenance.from_json(writable_json(description["provenance"]))
        described = description["layout"]
        layout = None if described is None else layout_from_json(described, "its layout")
        measured = _measured(description.get("measured"))
        return Edit(updates, alpha, strength, candidate_rows, origin, layout, measured)
    except MALFORMED as error:
        raise ArtifactError(
            f"{path}: not a valid edit ({error}); make one with `surgery edit`"
        ) from error


def edit_json(edit: Edit) -> dict[str, Any]:
    """An edit for people: everything but the numbers of rows."""
    rows: Counter[str] = Counter()
    for update in edit.updates:
        rows[update.tensor] += len(update.rows)
    return {
        "kind": "edit",
        "alpha": edit.alpha,
        "strength": edit.strength,
        "rows": edit.row_count,
        "rows_found": edit.candidate_rows,
        "rows_by_tensor": dict(rows),
        "layout": edit.layout.title if edit.layout else "built in",
        "provenance": edit.provenance.to_json(),
    }


def _update(tensors: dict[str, NDArray[Any]], number: int, entry: dict[str, Any]) -> RowUpdate:
    rows, coefficients = tensors[f"rows.{number}"], tensors[f"coefficients.{number}"]
    direction = tensors["directions"][entry["direction"]]
    count, width = (int(size) for size in entry["shape"])
    block, branch, expert = entry["address"]
    hash_ = entry["base_rows_sha256"]
    sound = (
        entry["dtype"] in ROW_DTYPES
        and isinstance(entry["tensor"], str)
        and isinstance(branch, str)
        and type(block) is type(expert) is int
        and rows.dtype == np.int32
        and rows.ndim == 1
        and coefficients.shape == rows.shape
        and coefficients.dtype == direction.dtype == np.float32
        and direction.shape == (width,)
        and bool(np.isfinite(coefficients).all() and np.isfinite(direction).all())
        and bool((np.diff(rows) > 0).all())
        and (len(rows) == 0 or (int(rows[0]) >= 0 and int(rows[-1]) < count))
        and (hash_ is None or isinstance(hash_, str))
    )
    if not sound:
        raise ValueError(f"update {number} is malformed")
    return RowUpdate(
        entry["tensor"],
        Address(block, branch, expert),
        (count, width),
        entry["dtype"],
        rows,
        coefficients,
        direction,
        hash_,
        _predicted(tensors, number, coefficients.shape),
        _samples(tensors, number, len(rows), width),
    )


def _samples(
    tensors: dict[str, NDArray[Any]], number: int, count: int, width: int
) -> NDArray[np.float16] | None:
    """Samples of the rows that an update was made for; None in files that have none."""
    samples = tensors.get(f"samples.{number}")
    if samples is None:
        return None
    sound = samples.dtype == np.float16 and samples.ndim == 2 and len(samples) == count
    if not (sound and 0 < samples.shape[1] <= width and np.isfinite(samples).all()):
        raise ValueError(f"the samples of update {number} are malformed")
    return samples


def _predicted(
    tensors: dict[str, NDArray[Any]], number: int, shape: tuple[int, ...]
) -> Prediction | None:
    """What the rule expects of the rows of an update; None in files that do not say."""
    if f"gains.{number}" not in tensors:
        return None
    parts = tensors[f"gains.{number}"], tensors[f"prices.{number}"]
    for one in parts:
        if not (one.shape == shape and one.dtype == np.float32 and np.isfinite(one).all()):
            raise ValueError(f"the predictions of update {number} are malformed")
    return Prediction(*parts)


def _measured(entry: dict[str, Any] | None) -> Measurement | None:
    if entry is None:
        return None
    moved = {name: float(one) for name, one in entry.get("by_behavior", {}).items()}
    found = Measurement(float(entry["gain"]), float(entry["divergence"]), moved)
    if not all(map(math.isfinite, (found.gain, found.divergence, *moved.values()))):
        raise ValueError("its measurements are not finite")
    return found
