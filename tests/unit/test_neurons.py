"""Edited neurons: what they read and write, which are shown, and the nearest of another edit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from families import loaded, random_edit
from looked_into import looked
from modelsurgery import find_gate_matrices, open_checkpoint
from modelsurgery.checkpoint.rows import widened
from modelsurgery.edit.edit import Edit
from modelsurgery.interpret import Inside, nearest_rows
from modelsurgery.interpret.lens import read_tokens
from modelsurgery.model.language_model import LanguageModel
from tiny import read_rows, write_tiny_model


@pytest.fixture(scope="module")
def llama_looked(tiny_llama: Path) -> tuple[LanguageModel, Edit, Inside]:
    return looked(tiny_llama)


def stored(directory: Path, tensor: str) -> torch.Tensor:
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")[tensor]


@pytest.mark.parametrize(
    ("family", "branch", "tensor", "rows_first"),
    [
        ("llama", "mlp", "model.layers.{block}.mlp.down_proj.weight", False),
        ("phi3", "mlp", "model.layers.{block}.mlp.down_proj.weight", False),
        ("gpt2", "mlp", "transformer.h.{block}.mlp.c_proj.weight", True),
        ("opt", "mlp", "model.decoder.layers.{block}.fc2.weight", False),
        ("mixtral", "experts",
         "model.layers.{block}.block_sparse_moe.experts.{expert}.w2.weight", False),
        ("qwen2_moe", "shared", "model.layers.{block}.mlp.shared_expert.down_proj.weight", False),
    ],
)  # fmt: skip
def test_neurons_read_their_rows_and_write_their_columns(
    family: str, branch: str, tensor: str, rows_first: bool, tmp_path: Path
) -> None:
    directory = write_tiny_model(tmp_path / "model", family)
    model, edit, seen = looked(directory)
    checkpoint = open_checkpoint(directory)
    gates = {gate.address: gate for gate in find_gate_matrices(checkpoint)}
    updates = {update.address: update for update in edit.updates}
    one = next(neuron for neuron in seen.neurons if neuron.branch == branch)
    address = (one.layer - 1, one.branch, -1 if one.expert is None else one.expert)
    gate, update = gates[address], updates[address]
    base = torch.from_numpy(widened(read_rows(checkpoint, gate.view)))[one.row]
    place = list(update.rows).index(one.row)
    after = base + float(update.coefficients[place]) * torch.from_numpy(update.direction)
    down = stored(directory, tensor.format(block=one.layer - 1, expert=one.expert))
    column = down[one.row] if rows_first else down[:, one.row]
    vectors = torch.stack([base, after, column])
    expected = read_tokens(model, vectors, [5] * 3)
    for found, wanted in zip(
        (one.gate_reads, one.gate_reads_edited, one.writes), expected, strict=True
    ):
        assert found is not None
        for end in ("toward", "away"):
            mine, theirs = getattr(found, end), getattr(wanted, end)
            assert [token.text for token in mine] == [token.text for token in theirs]
            values = [token.value for token in theirs]
            assert [token.value for token in mine] == pytest.approx(values, abs=1e-5)
    cosine = torch.cosine_similarity(base, torch.from_numpy(update.direction), dim=0)
    assert one.cosine == pytest.approx(float(cosine), abs=1e-6)


def test_shown_neurons_are_those_that_point_away_most(
    llama_looked: tuple[LanguageModel, Edit, Inside],
) -> None:
    model, edit, seen = llama_looked
    cosines = []
    for update in edit.updates:
        matrix = model.model.get_parameter(update.tensor)[torch.from_numpy(update.rows).long()]
        direction = torch.from_numpy(update.direction)
        values = torch.cosine_similarity(matrix, direction[None], dim=1).tolist()
        cosines += [
            (value, update.address.block + 1, int(row))
            for value, row in zip(values, update.rows, strict=True)
        ]
    assert len(seen.neurons) == 12
    expected = [(layer, row) for _, layer, row in sorted(cosines)[:12]]
    assert [(one.layer, one.row) for one in seen.neurons] == expected


def test_experts_are_counted_where_they_see_every_token_and_the_rest_is_told(
    tmp_path: Path,
) -> None:
    _, edit, seen = looked(write_tiny_model(tmp_path / "some", "qwen2_moe"))
    experts = sum(len(one.rows) for one in edit.updates if one.address.expert >= 0)
    told = f"{experts} of {edit.row_count} neurons are in experts"
    assert seen.missing["activations"].startswith(told)
    assert seen.activations is not None
    others = edit.row_count - experts
    for one in seen.activations:
        low, high = (
            sum(edge * count for edge, count in zip(edges, one.counts.base, strict=True))
            for edges in (one.counts.edges[:-1], np.array(one.counts.edges[1:]) - 1)
        )
        assert 0 < low <= one.base * one.tokens * others * (1 + 1e-9) <= high * (1 + 2e-9)
        assert high < others * one.tokens
    _, _, none = looked(write_tiny_model(tmp_path / "all", "mixtral"))
    assert none.activations is None
    assert all(one.mean_output is None and one.expert is not None for one in none.neurons)
    assert {"activations", "mean_output"} == set(none.missing)


def test_nearest_rows_are_the_most_alike_of_the_other_edit(tiny_llama: Path) -> None:
    model = loaded(tiny_llama)
    one, other = random_edit(tiny_llama, seed=0), random_edit(tiny_llama, seed=5)
    neurons = [(update.address, int(row)) for update in one.updates for row in update.rows[:4]]
    matrices = {u.address: model.model.get_parameter(u.tensor) for u in other.updates}
    candidates = [(u.address, int(row)) for u in other.updates for row in u.rows]
    found = nearest_rows(model, neurons, other)
    assert len(found) == len(neurons)
    for neuron, near in zip(neurons, found, strict=True):
        mine = model.model.model.layers[neuron[0].block].mlp.gate_proj.weight[neuron[1]]
        cosines = {
            place: float(torch.cosine_similarity(mine, matrices[place[0]][place[1]], dim=0))
            for place in candidates
            if place != neuron
        }
        best = max(cosines, key=lambda place: cosines[place])
        assert (near.other_layer, near.other_row) == (best[0].block + 1, best[1])
        assert near.cosine == pytest.approx(cosines[best], abs=1e-5)
        assert near.is_shared == (neuron in candidates)
    assert any(near.is_shared for near in found)
