"""A tiny model in several files with two edits, and what surgeries make of it undisturbed."""

from dataclasses import dataclass
from pathlib import Path

import torch

from gguf_tiny import write_gguf
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
from modelsurgery.apply.journal import SURGERY_DIRECTORY
from modelsurgery.checkpoint.place import place_of
from tiny import write_tiny_model

HIDDEN_SIZE = 32
GGUF_FILE = "tiny.gguf"
GGUF_TENSORS = 10


@dataclass(frozen=True)
class Operated:
    """Read only.

    Attributes:
        base: directory of a model in three or more files, with gate rows in three of them:
            safetensors of bf16, or GGUF of Q4_0.
        name: what of the directory is the model: a GGUF file, or nothing but itself.
        first: an edit of rows in the last two shards.
        second: an edit of rows in all shards of the model that `first` made.
        edited: the base edited in place with the first.
        edited_twice: that edited in place with the second.
    """

    base: Path
    name: str
    first: Path
    second: Path
    edited: Path
    edited_twice: Path

    def model(self, directory: Path) -> Path:
        """What of a copy of the directory is given to a surgery."""
        return directory / self.name

    def destination(self, directory: Path) -> Path:
        """What is given to a copy that shall be in a directory."""
        return directory / GGUF_FILE if self.name else directory

    def records(self, directory: Path) -> Path:
        """Where a copy of the directory has its journals."""
        return place_of(self.model(directory)).records / SURGERY_DIRECTORY

    def staged(self, directory: Path) -> list[Path]:
        """What is staged for a copy that shall be in a directory; hidden from lists of models."""
        if self.name:
            return sorted(directory.glob(f".{self.name}.staged-*"))
        return sorted(directory.parent.glob(f".{directory.name}.staged-*"))


def make_operated(directory: Path, kind: str = "safetensors") -> Operated:
    """Make all of it in an empty directory."""
    base, name = directory / "base", ""
    if kind == "gguf":
        model = write_tiny_model(directory / "original", dtype=torch.bfloat16)
        base.mkdir()
        name = write_gguf(model, base / GGUF_FILE, "Q4_0", tensors_a_file=GGUF_TENSORS).name
    else:
        write_tiny_model(base, dtype=torch.bfloat16, max_shard_size="20KB")
    first = _save_edit(base / name, directory / "first.safetensors", layers=(2, 3))
    edited = copy_tree(base, directory / "edited")
    apply_in_place(edited / name, [load_edit(first)])
    second = _save_edit(edited / name, directory / "second.safetensors", layers=(1, 3))
    twice = copy_tree(edited, directory / "twice")
    apply_in_place(twice / name, [load_edit(second)])
    before, after = weights(base), weights(twice)
    assert sum(before[file] != after[file] for file in before) == 3
    return Operated(base, name, first, second, edited, twice)


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
    return {path.name: path.read_bytes() for path in weight_files(model)}


def weight_files(model: Path) -> list[Path]:
    """Weight files of a directory under their own names."""
    return sorted((*model.glob("*.safetensors"), *model.glob("*.gguf")))


def link_shards(model: Path, other: Path, count: int) -> None:
    """Make a directory in which the last `count` shards of a model have a second name."""
    other.mkdir()
    for path in weight_files(model)[-count:]:
        (other / path.name).hardlink_to(path)
