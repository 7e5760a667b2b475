"""Rows of any arrangement of a matrix inside a tensor, against numpy's own indexing."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from modelsurgery.checkpoint import rows as rows_module
from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.header import read_header
from modelsurgery.checkpoint.layouts import GateLayout, Shaped, match_layout
from modelsurgery.checkpoint.rows import Weights, widened

TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
AXES = ["row column", "column row", "expert row column", "expert column row"]
PARTS = ["all", "first half", "second half", "even", "odd"]
NAME = "b.0.w"
FILE = "model.safetensors"


def expected_rows(tensor: torch.Tensor, axes: str, part: str, expert: int) -> torch.Tensor:
    """Gate rows [rows, d], by slicing."""
    plane = tensor[expert] if axes.startswith("expert") else tensor
    rows = plane.T if axes.endswith("column row") else plane
    half = len(rows) // 2
    return {
        "all": rows,
        "first half": rows[:half],
        "second half": rows[half:],
        "even": rows[::2],
        "odd": rows[1::2],
    }[part]


def layout_of(axes: str, part: str) -> GateLayout:
    entry = {"branch": "mlp", "spellings": [{"name": "w", "axes": axes, "part": part}]}
    if axes.startswith("expert"):
        entry["experts"] = "experts"
    return GateLayout.model_validate({"prefixes": ["b.{block}."], "blocks": {"only": [entry]}})


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("axes", AXES)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_rows_are_read_and_patched_where_slicing_finds_them(
    axes: str, part: str, dtype: str, data: st.DataObject
) -> None:
    sizes = {
        "expert": data.draw(st.integers(1, 3)),
        "row": 2 * data.draw(st.integers(1, 6)),
        "column": data.draw(st.integers(1, 7)),
    }
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    shape = [sizes[axis] for axis in axes.split()]
    tensor = torch.randn(shape, generator=generator).to(TORCH[dtype])
    config = {"num_hidden_layers": 1, "hidden_size": sizes["column"], "experts": sizes["expert"]}
    gates = match_layout(layout_of(axes, part), {NAME: Shaped(tuple(shape), dtype)}, config, "it")
    assert len(gates) == (sizes["expert"] if axes.startswith("expert") else 1)
    gate = data.draw(st.sampled_from(gates))
    expert = max(0, gate.expert)
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, gate.rows - 1), min_size=1))))

    with TemporaryDirectory() as directory:
        path = Path(directory) / FILE
        save_file({NAME: tensor, "other": torch.ones(3)}, path)
        checkpoint = Checkpoint(path.parent, config, read_header(path))
        assert gate.view.fits(checkpoint.tensors[NAME])
        with Weights(checkpoint, writable=True) as weights:
            found = weights.read(gate.view, chosen)
            assert np.array_equal(
                widened(found), expected_rows(tensor, axes, part, expert)[chosen].float().numpy()
            )
            weights.write(gate.view, chosen, -found)
        written = load_file(path)
    wanted = tensor.clone()
    view = expected_rows(wanted, axes, part, expert)
    view[chosen] = -view[chosen]
    assert written[NAME].equal(wanted)
    assert written["other"].equal(torch.ones(3))


def test_a_transposed_matrix_is_read_in_pieces_of_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = torch.arange(5 * 12, dtype=torch.float32).reshape(5, 12)
    save_file({NAME: tensor}, tmp_path / FILE)
    checkpoint = Checkpoint(tmp_path, {}, read_header(tmp_path / FILE))
    config = {"num_hidden_layers": 1, "hidden_size": 5}
    (gate,) = match_layout(
        layout_of("column row", "even"), {NAME: Shaped((5, 12), "F32")}, config, "it"
    )
    monkeypatch.setattr(rows_module, "CHUNK_BYTES", 2 * 11 * 4)  # two lines at a time
    chosen = np.array([0, 3, 5])
    with Weights(checkpoint, writable=True) as weights:
        assert weights.read(gate.view, chosen).tolist() == tensor.T[::2][chosen].tolist()
        weights.write(gate.view, chosen, np.zeros((3, 5), np.float32))
    tensor[:, [0, 6, 10]] = 0
    assert load_file(tmp_path / FILE)[NAME].equal(tensor)
