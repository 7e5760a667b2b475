"""The bytes of an edit file: a change of them is a change of the format."""

import hashlib
from pathlib import Path

import numpy as np

from modelsurgery import Edit, load_edit, save_edit
from modelsurgery.checkpoint.layouts import Address
from modelsurgery.edit.edit import RowUpdate
from modelsurgery.files.provenance import Provenance

GOLDEN_SHA256 = "bf1d2333ec840e129403bcd9ce91f03ab494abe17201d00fbdaf0797c857120e"


def small_edit() -> Edit:
    direction = np.array([0.5, -1.0, 0.25], np.float32)
    updates = tuple(
        RowUpdate(
            f"model.layers.{block}.mlp.gate_proj.weight",
            Address(block, "mlp", -1),
            (4, 3),
            "BF16",
            np.array([0, block + 1], np.int32),
            np.array([2.0, 2.0], np.float32),
            direction,
            "00" * 32,
        )
        for block in range(2)
    )
    return Edit(updates, 2.0, 3.5, 8, Provenance({"python": "3.11"}, seed=7))


def test_the_format_is_the_golden_bytes(tmp_path: Path) -> None:
    save_edit(small_edit(), tmp_path / "edit.safetensors")
    content = (tmp_path / "edit.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == GOLDEN_SHA256


def test_one_direction_is_stored_once(tmp_path: Path) -> None:
    save_edit(small_edit(), tmp_path / "edit.safetensors")
    read = load_edit(tmp_path / "edit.safetensors")
    assert [update.direction.tolist() for update in read.updates] == [[0.5, -1.0, 0.25]] * 2
    assert (
        b'"directions":{"dtype":"F32","shape":[1,3]' in (tmp_path / "edit.safetensors").read_bytes()
    )
