"""The bytes of an edit file: a change of them is a change of the format."""

import hashlib
from pathlib import Path

import torch

from modelsurgery import Edit, load_edit, save_edit
from modelsurgery.edit import RowUpdate
from modelsurgery.provenance import Provenance

GOLDEN_SHA256 = "972d7c8fa0067052ffbf35993addf6cd62e8cf9de276962bd39d57a1a1a66390"


def small_edit() -> Edit:
    direction = torch.tensor([0.5, -1.0, 0.25])
    updates = tuple(
        RowUpdate(
            f"model.layers.{block}.mlp.gate_proj.weight",
            (4, 3),
            "BF16",
            torch.tensor([0, block + 1], dtype=torch.int32),
            torch.tensor([2.0, 2.0]),
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
