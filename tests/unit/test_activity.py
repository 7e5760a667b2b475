"""Activity of the edited neurons, against the rows on disk and what the MLPs read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from families import loaded
from looked_into import D, looked, texts_of_a_behavior
from modelsurgery import apply_to_copy, edited, find_gate_matrices, open_checkpoint
from modelsurgery.checkpoint.rows import widened
from modelsurgery.edit.edit import Edit
from tiny import read_rows, write_tiny_model


@contextmanager
def inputs_of(modules: list[torch.nn.Module]) -> Iterator[list[list[torch.Tensor]]]:
    """What each module gets, by module."""
    caught: list[list[torch.Tensor]] = [[] for _ in modules]

    def catching(number: int) -> Any:
        return lambda _, inputs: caught[number].append(inputs[0].detach().clone())

    handles = [
        module.register_forward_pre_hook(catching(number)) for number, module in enumerate(modules)
    ]
    yield caught
    for handle in handles:
        handle.remove()


def active_by_hand(
    directory: Path, edit: Edit, texts: list[str], mlp: str, first: str
) -> np.ndarray:
    """Active chosen neurons at each word, from the rows on disk and the MLPs' inputs alone."""
    model, checkpoint = loaded(directory), open_checkpoint(directory)
    gates = {gate.address: gate for gate in find_gate_matrices(checkpoint)}
    modules = [model.model.get_submodule(mlp.format(block)) for block in range(model.layer_count)]
    counts = []
    for text in texts:  # one at a time: no padding
        with inputs_of(modules) as caught, torch.inference_mode():
            model.model(**model.tokenize([text]))
        total = 0
        for update in edit.updates:
            gate = gates[update.address]
            rows = widened(read_rows(checkpoint, gate.view))[update.rows]
            state = caught[gate.block][0].reshape(-1, D).double().numpy()
            bias = modules[gate.block].get_submodule(first).bias
            shift = 0 if bias is None else bias.numpy()[update.rows]
            total = total + (state @ rows.astype(np.float64).T + shift > 0).sum(1)
        counts.append(total)
    return np.concatenate(counts)


@pytest.mark.parametrize(
    ("family", "mlp", "first"),
    [
        ("llama", "model.layers.{}.mlp", "gate_proj"),
        ("phi3", "model.layers.{}.mlp", "gate_up_proj"),
        ("gpt2", "transformer.h.{}.mlp", "c_fc"),
        ("gpt_neox", "gpt_neox.layers.{}.mlp", "dense_h_to_4h"),
    ],
)
def test_active_neurons_are_counted_in_base_and_edited_model(
    family: str, mlp: str, first: str, tmp_path: Path
) -> None:
    base = write_tiny_model(tmp_path / "base", family)
    _, edit, seen = looked(base)
    apply_to_copy(base, [edit], tmp_path / "edited")
    behavior = texts_of_a_behavior()
    kinds = {
        "texts that show the behavior": [one.text for one in behavior.test if one.label == 1],
        "their opposites": [one.text for one in behavior.test if one.label == 0],
        "neutral text": list(behavior.test_neutral),
        "questions of facts": [question for question, _ in behavior.test_facts],
    }
    assert seen.activations is not None
    assert [one.texts for one in seen.activations] == list(kinds)
    for one in seen.activations:
        texts = kinds[one.texts]
        assert one.tokens == sum(len(text.split()) for text in texts)
        for directory, share, counts in (
            (base, one.base, one.counts.base),
            (tmp_path / "edited", one.edited, one.counts.edited),
        ):
            expected = active_by_hand(directory, edit, texts, mlp, first)
            assert share == pytest.approx(expected.mean() / edit.row_count)
            assert list(counts) == list(np.histogram(expected, one.counts.edges)[0])
            assert sum(counts) == one.tokens
        assert one.base != one.edited


def test_mean_outputs_are_what_the_down_projection_reads(tiny_llama: Path) -> None:
    model, edit, seen = looked(tiny_llama)
    texts = [one.text for one in texts_of_a_behavior().test if one.label == 1]
    first = seen.neurons[0]
    mlp = model.model.model.layers[first.layer - 1].mlp

    def mean() -> float:
        outputs = []
        for text in texts:
            with inputs_of([mlp]) as caught, torch.inference_mode():
                model.model(**model.tokenize([text]))
            state = caught[0][0][0]
            gate = torch.nn.functional.silu(state @ mlp.gate_proj.weight[first.row])
            outputs.append(gate * (state @ mlp.up_proj.weight[first.row]))
        return float(torch.cat(outputs).mean())

    assert first.mean_output is not None
    assert first.mean_output.base == pytest.approx(mean(), rel=1e-4, abs=1e-7)
    with edited(model.model, edit):
        assert first.mean_output.edited == pytest.approx(mean(), rel=1e-4, abs=1e-7)
    assert first.mean_output.base != first.mean_output.edited
