"""The file of an edit: one artefact of about 100 KB for a 7B model.

`directions` [m, d] f32; for update i `rows.i` int32 [k] and `coefficients.i` f32 [k]; the
description names tensor, shape, dtype, direction and the hash of the rows it was made for.
"""

import math
from pathlib import Path
from typing import Any

import torch

from modelsurgery.artefact import read_artefact, write_artefact
from modelsurgery.checkpoint import DTYPES
from modelsurgery.edit import Edit, RowUpdate
from modelsurgery.errors import ArtefactError
from modelsurgery.provenance import Provenance

FORMAT_VERSION = 1


def save_edit(edit: Edit, path: Path) -> None:
    """Write an edit as one .safetensors file, whole or not at all; the same edit, the same bytes.

    Layout: `directions` [m, d] f32; for update i `rows.i` int32 [k] and `coefficients.i` f32 [k];
    one metadata entry with the rest as JSON.
    """
    directions: dict[bytes, int] = {}
    stacked: list[torch.Tensor] = []
    tensors: dict[str, torch.Tensor] = {}
    described = []
    for number, update in enumerate(edit.updates):
        content = update.direction.numpy().tobytes()
        if content not in directions:
            directions[content] = len(stacked)
            stacked.append(update.direction)
        tensors[f"rows.{number}"] = update.rows.contiguous()
        tensors[f"coefficients.{number}"] = update.coefficients.contiguous()
        described.append(
            {
                "tensor": update.tensor,
                "shape": list(update.shape),
                "dtype": update.dtype,
                "direction": directions[content],
                "base_rows_sha256": update.base_rows_sha256,
            }
        )
    tensors["directions"] = torch.stack(stacked) if stacked else torch.empty(0, 0)
    description = {
        "format": FORMAT_VERSION,
        "alpha": edit.alpha,
        "strength": edit.strength,
        "candidate_rows": edit.candidate_rows,
        "updates": described,
        "provenance": edit.provenance.to_json(),
    }
    write_artefact(path, "edit", tensors, description)


def load_edit(path: Path | str) -> Edit:
    """Read an edit and check everything in it.

    Raises:
        ArtefactError: missing, damaged, of a later format, or not an edit.
    """
    path = Path(path)
    tensors, description = read_artefact(path, "edit")
    if description.get("format") != FORMAT_VERSION:
        raise ArtefactError(
            f"{path}: format {description.get('format')}; this version reads {FORMAT_VERSION}, "
            "update modelsurgery"
        )
    try:
        updates = tuple(
            _update(tensors, number, entry) for number, entry in enumerate(description["updates"])
        )
        alpha, strength = float(description["alpha"]), float(description["strength"])
        if not (math.isfinite(alpha) and math.isfinite(strength)):
            raise ValueError("its alpha or strength is not finite")
        candidate_rows = int(description["candidate_rows"])
        origin = Provenance.from_json(description["provenance"])
        return Edit(updates, alpha, strength, candidate_rows, origin)
    # OverflowError and RuntimeError: integers that neither float() nor a tensor's index can hold.
    except (
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        OverflowError,
        RuntimeError,
    ) as error:
        raise ArtefactError(
            f"{path}: not a sound edit ({error}); make one with `surgery edit`"
        ) from error


def _update(tensors: dict[str, torch.Tensor], number: int, entry: dict[str, Any]) -> RowUpdate:
    rows, coefficients = tensors[f"rows.{number}"], tensors[f"coefficients.{number}"]
    direction = tensors["directions"][entry["direction"]]
    count, width = (int(size) for size in entry["shape"])
    hash_ = entry["base_rows_sha256"]
    sound = (
        entry["dtype"] in DTYPES
        and isinstance(entry["tensor"], str)
        and rows.dtype == torch.int32
        and rows.dim() == 1
        and coefficients.shape == rows.shape
        and coefficients.dtype == direction.dtype == torch.float32
        and direction.shape == (width,)
        and bool(coefficients.isfinite().all() and direction.isfinite().all())
        and bool((rows.diff() > 0).all())
        and (len(rows) == 0 or (int(rows[0]) >= 0 and int(rows[-1]) < count))
        and (hash_ is None or isinstance(hash_, str))
    )
    if not sound:
        raise ValueError(f"update {number} is malformed")
    return RowUpdate(
        entry["tensor"], (count, width), entry["dtype"], rows, coefficients, direction, hash_
    )
