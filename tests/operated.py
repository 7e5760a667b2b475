"""A tiny sharded model with two edits, and what surgeries that nothing disturbs make of it."""

from dataclasses import dataclass
from pathlib import Path

import torch

from killing import copy_tree
from modelsurgery import (
    find_gate_matrices,
    load_edit,
    make_edit,
    open_checkpoint,
    save_edit,
    score_rows,
    select_region,
)
from modelsurgery.apply.in_place import apply_in_place
from tiny import write_tiny_model

HIDDEN_SIZE = 32


@dataclass(frozen=True)
class Operated:
    """Read only.

    Attributes:
        base: a model in three shards of bf16, with gate rows in each.
        first: an edit of rows in the last two shards.
        second: an edit of rows in all shards of the model that `first` made.
        edited: the base edited in place with the first.
        edited_twice: that edited in place with the second.
    """

    base: Path
    first: Path
    second: Path
    edited: Path
    edited_twice: Path


def make_operated(directory: Path) -> Operated:
    """Make all of it in an empty directory."""
    base = directory / "base"
    write_tiny_model(base, dtype=torch.bfloat16, max_shard_size="20KB")
    first = _save_edit(base, directory / "first.safetensors", layers=(2, 3))
    edited = copy_tree(base, directory / "edited")
    apply_in_place(edited, [load_edit(first)])
    second = _save_edit(edited, directory / "second.safetensors", layers=(1, 3))
    twice = copy_tree(edited, directory / "twice")
    apply_in_place(twice, [load_edit(second)])
    assert set(weights(base).values()).isdisjoint(weights(twice).values())
    return Operated(base, first, second, edited, twice)


def _save_edit(model: Path, path: Path, layers: tuple[int, int]) -> Path:
    checkpoint = open_checkpoint(model)
    gates = find_gate_matrices(checkpoint)
    direction = torch.randn(HIDDEN_SIZE, generator=torch.Generator().manual_seed(4))
    scores = score_rows(checkpoint, gates, direction.unsqueeze(0))
    region = select_region(scores, 8, layers=layers)
    edit = make_edit(region, direction, strength=2.0).bound_to(checkpoint)
    save_edit(edit, path)
    files = {checkpoint.tensors[gate.tensor].file for gate in region.gates}
    assert len(files) == layers[1] - layers[0] + 1
    return path


def weights(model: Path) -> dict[str, bytes]:
    """Weight files under their own names, with their bytes."""
    return {path.name: path.read_bytes() for path in sorted(model.glob("*.safetensors"))}


def link_shards(model: Path, other: Path, count: int) -> None:
    """Make a directory in which the last `count` shards of a model have a second name."""
    other.mkdir()
    for path in sorted(model.glob("*.safetensors"))[-count:]:
        (other / path.name).hardlink_to(path)
