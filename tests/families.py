"""Tiny models of all families, loaded, with edits of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modelsurgery import (
    Edit,
    LanguageModel,
    find_gate_matrices,
    load_model,
    make_edit,
    open_checkpoint,
    score_rows,
    select_region,
)
from tiny import ALL_FAMILIES, REMOTE_CODE, auto_class, tiny_tokenizer

LOADED = [family for family in ALL_FAMILIES if family not in REMOTE_CODE]


def random_edit(directory: Path, seed: int = 0) -> Edit:
    """A third of all rows, some of every kind, of a model."""
    checkpoint = open_checkpoint(directory)
    gates = find_gate_matrices(checkpoint)
    direction = np.random.default_rng(seed).standard_normal(gates[0].hidden_size, dtype=np.float32)
    scores = score_rows(checkpoint, gates, direction[None])
    region = select_region(scores, 0.33, selection="random", seed=seed)
    assert len(region.gates) > len(gates) / 2
    return make_edit(region, direction, strength=2.0).bound_to(checkpoint)


def strong_edit(model: LanguageModel, seed: int, strength: float = 3.0) -> Edit:
    """A strong edit of a tenth of a model's gate rows in a random direction, bound to it."""
    shape = (1, model.gates[0].hidden_size)
    direction = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    scores = score_rows(model.checkpoint, model.gates, direction)
    edit = make_edit(select_region(scores, 0.1), direction[0], strength=strength)
    return edit.bound_to(model.checkpoint)


def load(directory: Path, family: str) -> Any:
    model = auto_class(family).from_pretrained(directory, dtype=torch.float32).eval()
    return model.requires_grad_(False)


def logits(model: Any) -> torch.Tensor:
    ids = torch.tensor([[1, 7, 9, 14, 11, 23, 8, 30]])
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def loaded(directory: Path) -> LanguageModel:
    """The model with a tokenizer of plain words, whatever its family makes of the file."""
    return replace(load_model(directory), tokenizer=tiny_tokenizer())
