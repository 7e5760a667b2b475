"""The formula of memory on several devices, against what a small model really keeps."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.arithmetic import Model, largest_share
from modelsurgery import load_model
from modelsurgery.model.activations.losses import Reader
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.activations.sites import find_sites
from modelsurgery.model.activations.statistics import measure_moments
from modelsurgery.model.activations.texts import TokenizedText, text_batches
from tiny import write_tiny_model

SHAPE = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 6}
TOKENS = 120


@pytest.fixture(params=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    directory = write_tiny_model(tmp_path / "m", "llama", **SHAPE)
    return load_model(directory, device="cpu", dtype=request.param)


def shape_of(model: Any) -> Model:
    count = sum(one.numel() for one in model.model.parameters())
    rows = sum(gate.rows for gate in model.gates)
    return Model("small", count, count, 64, rows, 1, 6, 176, 16, len(model.gates))


def test_parts_are_those_of_a_real_model(model: Any) -> None:
    size = model.model.dtype.itemsize
    share = largest_share(
        shape_of(model), 1, itemsize=size, graph_tokens=TOKENS, cached_tokens=TOKENS
    )
    weights = sum(one.nbytes for one in model.model.parameters())
    assert share.weights == weights

    text = TokenizedText(tuple(3 + n % 30 for n in range(TOKENS)))
    moments = measure_moments(Passes(model), find_sites(model.model), [text])
    kept = sum(one.matrix.nbytes for one in moments.values())  # type: ignore[attr-defined]
    assert share.moments == kept

    with torch.inference_mode():
        ids = torch.tensor([text.ids])
        cache = model.model(input_ids=ids, use_cache=True).past_key_values
    cached = sum(one.keys.nbytes + one.values.nbytes for one in cache.layers)
    assert share.cache == cached

    graph: dict[int, torch.Tensor] = {}
    own = {one.untyped_storage().data_ptr() for one in model.model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        graph[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    (batch,) = text_batches(model, [text], 2 * TOKENS)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        Reader(model).backward(batch)
    held = sum(one.untyped_storage().nbytes() for place, one in graph.items() if place not in own)
    # What is saved is less than what is there at once, which the formula was measured on.
    assert 0.4 * share.graph < held < share.graph


def test_blocks_are_spread_as_evenly_as_goes() -> None:
    model = Model("small", 6000, 6000, 64, 60, 1, 6, 176, 16, 6)
    whole = largest_share(model, 1)
    for devices, share in ((2, 3 / 6), (4, 2 / 6), (6, 1 / 6), (8, 1 / 6)):
        part = largest_share(model, devices)
        for name in ("weights", "moments", "graph", "cache", "statistics", "generation"):
            assert getattr(part, name) == pytest.approx(share * getattr(whole, name))
