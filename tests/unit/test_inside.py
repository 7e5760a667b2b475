"""Looking inside: every number against one computed in another way."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from families import LOADED, loaded, random_edit
from modelsurgery import apply_to_copy, edited, find_gate_matrices, open_checkpoint
from modelsurgery.checkpoint.rows import read_rows, widened
from modelsurgery.data.behaviors import Behavior, BehaviorFile
from modelsurgery.data.texts import LabeledText
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.probe import Probe
from modelsurgery.errors import EditMismatchError, NothingChangedError, RecipeError
from modelsurgery.interpret import Inside, look_inside, nearest_rows, read_probe
from modelsurgery.interpret.lens import read_tokens
from modelsurgery.model.hidden_states import extract_hidden_states
from modelsurgery.model.language_model import LanguageModel
from tiny import tiny_sentences, write_tiny_model

D = 32
SENTENCES = tiny_sentences(60)


def texts_of_a_behavior() -> Behavior:
    test = tuple(LabeledText(text, n % 2) for n, text in enumerate(SENTENCES[:30]))
    facts = tuple((text, "good") for text in SENTENCES[50:])
    described = BehaviorFile(name="tiny", title="tiny", texts=Path("tiny.jsonl"))
    nothing: tuple[Any, ...] = ()
    return Behavior(
        described, False, nothing, nothing, test, nothing, nothing, nothing,
        tuple(SENTENCES[30:50]), "tiny sentences", nothing, facts,
    )  # fmt: skip


def random_probe(layer: int) -> Probe:
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((2, D), dtype=np.float32)
    return Probe(weight, np.array([0.1, -0.2], np.float32), layer=layer)


def looked(directory: Path, *, seed: int = 0) -> tuple[LanguageModel, Edit, Inside]:
    model, edit = loaded(directory), random_edit(directory)
    direction = edit.updates[0].direction
    behavior = texts_of_a_behavior()
    seen = look_inside(model, edit, random_probe(2), behavior, direction=direction, seed=seed)
    return model, edit, seen


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("inside") / "llama")


@pytest.fixture(scope="module")
def llama_looked(llama: Path) -> tuple[LanguageModel, Edit, Inside]:
    return looked(llama)


def test_the_model_is_left_without_our_hooks_and_with_its_weights(llama: Path) -> None:
    model = loaded(llama)
    extract_hidden_states(model, SENTENCES[:1])  # transformers hangs up hooks of its own

    def hooks() -> int:
        modules = model.model.modules()
        return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in modules)

    before, weights = hooks(), {k: v.clone() for k, v in model.model.state_dict().items()}
    edit = random_edit(llama)
    look_inside(
        model, edit, random_probe(1), texts_of_a_behavior(), direction=edit.updates[0].direction
    )
    assert hooks() == before
    assert all(weights[name].equal(one) for name, one in model.model.state_dict().items())


# ---- activity --------------------------------------------------------------------------------


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
            rows = widened(read_rows(checkpoint, gate.view, 0, gate.rows))[update.rows]
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


def test_mean_outputs_are_what_the_down_projection_reads(llama: Path) -> None:
    model, edit, seen = looked(llama)
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


# ---- neurons ---------------------------------------------------------------------------------


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
    base = torch.from_numpy(widened(read_rows(checkpoint, gate.view, one.row, one.row + 1)))[0]
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


# ---- distributions ---------------------------------------------------------------------------


def test_rows_and_cosines_are_counted_once_each(
    llama_looked: tuple[LanguageModel, Edit, Inside],
) -> None:
    model, edit, seen = llama_looked
    chosen = {update.address.block + 1: len(update.rows) for update in edit.updates}
    assert [(one.layer, one.chosen, one.rows) for one in seen.rows_by_layer] == [
        (layer, chosen.get(layer, 0), 48) for layer in (1, 2, 3)
    ]
    direction = torch.from_numpy(edit.updates[0].direction)
    rows = torch.cat([layer.mlp.gate_proj.weight for layer in model.model.model.layers])
    everything = torch.cosine_similarity(rows, direction[None], dim=1).numpy()
    mine = np.concatenate([update.rows + 48 * update.address.block for update in edit.updates])
    for values, found in ((everything, seen.cosines.all), (everything[mine], seen.cosines.chosen)):
        assert list(found) == list(np.histogram(values, seen.cosines.edges)[0])
    assert sum(seen.cosines.all) == 144
    assert sum(seen.cosines.random) == sum(seen.cosines.chosen) == edit.row_count


def test_roc_losses_and_cosines_are_of_the_held_out_texts(
    llama_looked: tuple[LanguageModel, Edit, Inside],
) -> None:
    model, edit, seen = llama_looked
    behavior, probe = texts_of_a_behavior(), random_probe(2)
    texts = [one.text for one in behavior.test]
    labels = torch.tensor([one.label for one in behavior.test])

    def logits() -> torch.Tensor:
        states = extract_hidden_states(model, texts, [2]).by_layer[2]
        return states @ torch.from_numpy(probe.weight).T + torch.from_numpy(probe.bias)

    base = logits()
    with edited(model.model, edit):
        after = logits()
    assert seen.roc is not None
    margin = (base[:, 1] - base[:, 0]).numpy()
    area = roc_auc_score(labels, margin)
    assert seen.roc.auroc == pytest.approx(area)
    curve = seen.roc.true_positive_rate, seen.roc.false_positive_rate
    assert np.trapezoid(*curve) == pytest.approx(area)
    assert (seen.roc.texts, curve[0][0], curve[0][-1]) == (30, 0.0, 1.0)
    assert seen.probe_loss is not None
    for one, label in zip(seen.probe_loss, (1, 0), strict=True):
        for found, both in ((one.base, base), (one.edited, after)):
            loss = torch.nn.functional.cross_entropy(both[labels == label], labels[labels == label])
            assert found == pytest.approx(float(loss), rel=1e-4)
    neutral = extract_hidden_states(model, behavior.test_neutral, [2]).by_layer[2].mean(0)
    direction = torch.from_numpy(edit.updates[0].direction)
    assert seen.similarity is not None
    found = {one.texts: one.cosine for one in seen.similarity}
    expected = float(torch.cosine_similarity(neutral, direction, dim=0))
    assert found["neutral text"] == pytest.approx(expected, abs=1e-5)
    assert list(found)[3] == "questions of facts"


def test_the_same_look_gives_the_same_json_and_another_seed_other_random_rows(llama: Path) -> None:
    first, again, other = (looked(llama, seed=seed)[2].to_json() for seed in (0, 0, 1))
    assert json.dumps(first, allow_nan=False) == json.dumps(again)
    assert first["cosines"]["random"] != other["cosines"]["random"]
    other["cosines"]["random"] = first["cosines"]["random"]
    assert first == other
    assert first["missing"] == {}


def test_without_texts_or_probe_the_rest_is_there_and_reasons_are_given(llama: Path) -> None:
    model, edit = loaded(llama), random_edit(llama)
    direction = edit.updates[0].direction
    seen = look_inside(model, edit, direction=direction)
    assert seen.activations is seen.similarity is seen.roc is seen.probe_loss is None
    assert seen.tokens is not None
    texts = {"activations", "similarity", "roc", "probe_loss", "mean_output"}
    assert set(seen.missing) == texts
    no_probe = look_inside(model, edit, None, texts_of_a_behavior(), direction=direction)
    assert no_probe.activations is not None
    assert set(no_probe.missing) == {"similarity", "roc", "probe_loss"}


def test_an_edit_that_breaks_the_model_leaves_out_what_compares(llama: Path) -> None:
    model, edit = loaded(llama), random_edit(llama)
    # Rows that f32 can hold, and outputs that it can't.
    updates = tuple(
        replace(one, coefficients=np.full(len(one.rows), 1e38, np.float32)) for one in edit.updates
    )
    broken = replace(edit, updates=updates)
    with np.errstate(over="ignore", invalid="ignore"):
        seen = look_inside(
            model, broken, random_probe(3), texts_of_a_behavior(),
            direction=edit.updates[0].direction,
        )  # fmt: skip
        content = json.dumps(seen.to_json(), allow_nan=False)
    assert "not finite" in content
    assert seen.activations is seen.probe_loss is None
    assert seen.roc is not None


def test_what_is_for_another_model_is_refused(llama: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other", seed=1)
    wide = write_tiny_model(tmp_path / "wide", hidden_size=48, num_attention_heads=6)
    edit = random_edit(other)
    with pytest.raises(EditMismatchError):
        look_inside(loaded(llama), edit, direction=edit.updates[0].direction)
    with pytest.raises(RecipeError, match="the probe was made for"):
        read_probe(loaded(wide), random_probe(1))
    own = random_edit(llama)
    with pytest.raises(NothingChangedError, match="changes no row"):
        look_inside(loaded(llama), own.scaled(0.0), direction=own.updates[0].direction)


# ---- other edits -----------------------------------------------------------------------------


def test_nearest_rows_are_the_most_alike_of_the_other_edit(llama: Path) -> None:
    model = loaded(llama)
    one, other = random_edit(llama, seed=0), random_edit(llama, seed=5)
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


@pytest.mark.slow
@pytest.mark.parametrize("family", LOADED)
def test_every_family_can_be_looked_into(family: str, tmp_path: Path) -> None:
    _, edit, seen = looked(write_tiny_model(tmp_path / "model", family))
    json.dumps(seen.to_json(), allow_nan=False)
    assert seen.tokens is not None
    assert all(one.writes is not None for one in seen.neurons)
    everywhere = any(update.address.expert < 0 for update in edit.updates)
    assert (seen.activations is not None) == everywhere
    dense = [one for one in seen.neurons if one.expert is None]
    assert all(one.mean_output is not None for one in dense)
