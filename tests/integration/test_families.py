"""Contract 8 for every family: the layout's rows are those that feed the activation function.

What a row does is read off the model and not off its name. A neuron's contribution to its MLP's
output is linear in its row of the up projection and of the down projection, and not in its row of
the gate (or of a plain MLP's first matrix). Of one neuron it has rank one over the tokens.
"""

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modelsurgery.checkpoint.directory import open_checkpoint
from modelsurgery.checkpoint.layouts import (
    GateLayout,
    GateMatrix,
    Shaped,
    built_in_layouts,
    find_gate_matrices,
    match_layout,
)
from modelsurgery.checkpoint.rows import Weights
from modelsurgery.errors import UnsupportedModelError
from tiny import (
    ALL_FAMILIES,
    COMMON,
    REMOTE_CODE,
    auto_class,
    read_rows,
    rename_tensors,
    write_tiny_model,
)

D = COMMON["hidden_size"]
LOADED = tuple(family for family in ALL_FAMILIES if family not in REMOTE_CODE)

# Gate rows of the tiny models by branch, from their settings, where they are not 3 blocks of 48.
FIRST_DENSE = {"mlp": 48, "experts": 2 * 4 * 24}
MIXTURES = {"experts": 3 * 4 * 48}
ROWS_OF_GROUPS: tuple[tuple[str, dict[str, int]], ...] = (
    ("bloom mpt", {"mlp": 3 * 4 * D}),
    ("gpt_neo", {"mlp": 4 * 48}),
    ("jamba", {"mlp": 2 * 48, "experts": 4 * 48}),
    ("gpt_oss granitemoe minimax_m2 mixtral olmoe phimoe", MIXTURES),
    ("granitemoehybrid granitemoeshared", {**MIXTURES, "shared": 3 * 40}),
    ("hunyuan_v1_moe", {**MIXTURES, "shared": 3 * 48}),
    ("lfm2_moe qwen3_moe", FIRST_DENSE),
    ("qwen2_moe qwen3_next", {**FIRST_DENSE, "shared": 2 * 40}),
    (
        "deepseek deepseek_v2 deepseek_v3 dots1 ernie4_5_moe glm4_moe glm4_moe_lite",
        {**FIRST_DENSE, "shared": 2 * 2 * 24},
    ),
    ("llama4 llama4_text", {"mlp": 2 * 48, "experts": 4 * 24, "shared": 24}),
    ("gemma4 gemma4_text", {"mlp": 3 * 48, "experts": 3 * 4 * 24}),
    ("qwen3_5_moe qwen3_5_moe_text", {"experts": 3 * 4 * 24, "shared": 3 * 40}),
    ("qwen3_vl_moe", {"experts": 3 * 4 * 24}),
)
EXPECTED_ROWS = {name: rows for names, rows in ROWS_OF_GROUPS for name in names.split()}
# Tensors that these files have and that are no gate rows: attention, routers, vision towers.
LOOK_ALIKES = {
    "gemma4": "model.vision_tower.encoder.layers.0.mlp.gate_proj.linear.weight",
    "glm4_moe": "model.layers.1.mlp.gate.weight",
    "gpt_oss": "model.layers.0.mlp.router.weight",
    "llama4": "language_model.model.layers.1.feed_forward.router.weight",
    "llava": "vision_tower.encoder.layers.0.mlp.fc1.weight",
    "mistral3": "vision_tower.transformer.layers.0.feed_forward.gate_proj.weight",
    "mixtral": "model.layers.0.block_sparse_moe.gate.weight",
    "qwen2_5_vl": "visual.blocks.0.mlp.gate_proj.weight",
    "qwen2_moe": "model.layers.1.mlp.shared_expert_gate.weight",
    "qwen3_vl_moe": "model.visual.blocks.0.mlp.linear_fc1.weight",
}
NEVER = re.compile(
    r"attn|attention|vis|router|\.gate\.|expert_gate|mtp|eh_proj|bias|down|fc2|w2|w3"
)

# Files of the hub that differ from what transformers 5 writes: without a prefix ...
OTHER_PREFIXES = {
    "bloom": {r"^transformer\.": ""},
    "gpt2": {r"^transformer\.": ""},
    "opt": {r"^model\.": ""},
}
# ... or with the names, and the fused experts, of the module.
LIKE_THE_MODULE = ("gemma3", "llava", "mistral3", "mixtral", "qwen2_5_vl", "qwen3_5_moe")
OTHER_FORMS = (*OTHER_PREFIXES, *LIKE_THE_MODULE, "qwen3_vl_moe")

FIRST_MARK = 1024.0  # marks are whole numbers from here on, far above any weight


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Directory of a family's tiny model, written once."""
    root = tmp_path_factory.mktemp("families")
    return cache(lambda family: write_tiny_model(root / family, family))


def gates_of(directory: Path) -> tuple[GateMatrix, ...]:
    return find_gate_matrices(open_checkpoint(directory))


def rows_by_branch(gates: tuple[GateMatrix, ...]) -> Counter[str]:
    rows: Counter[str] = Counter()
    for gate in gates:
        rows[gate.branch] += gate.rows
    return rows


def load(directory: Path, family: str) -> torch.nn.Module:
    model = auto_class(family).from_pretrained(directory, dtype=torch.float32)
    for parameter in model.parameters():
        # transformers 5 maps the file: writing to the file would change the loaded model.
        parameter.data = parameter.data.clone()
    return model.eval().requires_grad_(False)


def marks(gates: tuple[GateMatrix, ...]) -> list[tuple[int, np.ndarray]]:
    """For each matrix a row, and [d] values for it that occur nowhere else in the model."""
    return [
        (gate.rows - 2, FIRST_MARK + D * number + np.arange(D, dtype=np.float32))
        for number, gate in enumerate(gates)
    ]


def mark_on_disk(directory: Path, gates: tuple[GateMatrix, ...]) -> None:
    with Weights(open_checkpoint(directory), writable=True) as weights:
        for gate, (row, values) in zip(gates, marks(gates), strict=True):
            weights.write(gate.view, np.array([row]), values[None])


def find_marks(base: torch.nn.Module, marked: torch.nn.Module) -> dict[int, tuple[str, Any]]:
    """By matrix: the parameter, and the flat positions [d], at which its marks were loaded.

    Nothing but the marks may differ between the two modules.
    """
    places = {}
    theirs = dict(marked.named_parameters())
    for name, parameter in base.named_parameters():
        flat = theirs[name].flatten()
        changed = flat != parameter.flatten()
        assert changed.equal(flat >= FIRST_MARK), name
        positions = changed.nonzero()[:, 0]
        codes = (flat[positions] - FIRST_MARK).long()
        for number in (codes // D).unique().tolist():
            mine = codes // D == number
            assert codes[mine].sort().values.equal(number * D + torch.arange(D))
            assert number not in places
            places[number] = name, positions[mine][codes[mine].argsort()]
    return places


def mlp_of(model: torch.nn.Module, parameter: str) -> torch.nn.Module:
    """The module that computes the MLP: around a linear layer, or with the experts inside."""
    owner, _, _ = parameter.removesuffix(".weight").rpartition(".")
    return model.get_submodule(owner)


def mlp_outputs(
    model: torch.nn.Module, parameter: str, positions: torch.Tensor, factors: tuple[float, ...]
) -> list[torch.Tensor]:
    """What the MLP gives, [tokens, d], with the row at `positions` times each factor."""
    caught: list[torch.Tensor] = []

    def catch(_module: object, _inputs: object, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        caught.append(tensor.reshape(-1, tensor.shape[-1]).double())

    tokens = torch.randint(4, 38, (2, 6), generator=torch.Generator().manual_seed(0))
    flat = model.get_parameter(parameter).view(-1)
    row = flat[positions].clone()
    handle = mlp_of(model, parameter).register_forward_hook(catch)
    try:
        for factor in factors:
            flat[positions] = row * factor
            model(tokens)
    finally:
        flat[positions] = row
        handle.remove()
    return caught


def nonlinearity(
    model: torch.nn.Module, parameter: str, positions: torch.Tensor
) -> tuple[float, float]:
    """How far the MLP is from linear in a row, and how far its change from that of one neuron."""
    plus, zero, minus = mlp_outputs(model, parameter, positions, (4.0, 0.0, -4.0))
    change = (plus - minus).norm()
    assert change > 1e-4, "the row does nothing"
    singular = torch.linalg.svdvals(plus - zero)
    return float((plus + minus - 2 * zero).norm() / change), float(singular[1] / singular[0])


def one_of_each_branch(gates: tuple[GateMatrix, ...]) -> list[int]:
    """Numbers of the last matrix of each branch and of its first."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for number, gate in enumerate(gates):
        first.setdefault(gate.branch, number)
        last[gate.branch] = number
    return sorted({*first.values(), *last.values()})


def check_gate_rows(directory: Path, family: str) -> None:
    """Mark a row of each matrix on disk, load the model, and see what the marked rows do."""
    gates = gates_of(directory)
    base = load(directory, family)
    mark_on_disk(directory, gates)
    places = find_marks(base, load(directory, family))
    assert sorted(places) == list(range(len(gates)))
    for number in one_of_each_branch(gates):
        bend, second_neuron = nonlinearity(base, *places[number])
        assert bend > 0.05, gates[number].address
        assert second_neuron < 1e-3, gates[number].address
    check_module(family, base, gates, places)


def check_module(
    family: str, model: Any, gates: tuple[GateMatrix, ...], places: dict[int, tuple[str, Any]]
) -> None:
    """The search over the module's parameters finds the same matrices at the same places."""
    parameters = {name: Shaped(tuple(one.shape), "F32") for name, one in model.named_parameters()}
    layout = built_in_layouts()[family]
    found = match_layout(layout, parameters, model.config.to_dict(), "module")
    assert [gate.address for gate in found] == [gate.address for gate in gates]
    for number, (gate, (row, _)) in enumerate(zip(found, marks(found), strict=True)):
        view = gate.view
        start = view.offset + row * view.row_stride
        expected = start + view.column_stride * torch.arange(D)
        parameter, positions = places[number]
        assert gate.tensor == parameter
        assert positions.equal(expected)


def test_every_row_of_the_table_of_families_has_its_test() -> None:
    assert set(built_in_layouts()) == set(ALL_FAMILIES)
    assert set(EXPECTED_ROWS) < set(ALL_FAMILIES)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_all_gate_rows_are_found_and_nothing_else(family: str, written: Any) -> None:
    gates = gates_of(written(family))
    assert rows_by_branch(gates) == EXPECTED_ROWS.get(family, {"mlp": 3 * 48})
    assert len({gate.address for gate in gates}) == len(gates)
    assert {gate.hidden_size for gate in gates} == {D}
    assert [name for name in {gate.tensor for gate in gates} if NEVER.search(name)] == []


@pytest.mark.parametrize("family", LOADED)
def test_the_rows_found_in_the_file_feed_the_activation(
    family: str, written: Any, tmp_path: Path
) -> None:
    check_gate_rows(copied(written(family), tmp_path / "model"), family)


@pytest.mark.parametrize("family", OTHER_FORMS)
def test_other_forms_of_the_file_give_the_same_rows(
    family: str, written: Any, tmp_path: Path
) -> None:
    directory = copied(written(family), tmp_path / "model")
    before = [(gate.address, gate.rows) for gate in gates_of(directory)]
    names = set(open_checkpoint(directory).tensors.items())
    if family in OTHER_PREFIXES:
        rename_tensors(directory, OTHER_PREFIXES[family])
    elif family in LIKE_THE_MODULE:
        parameters = dict(load(directory, family).named_parameters())
        save_file(parameters, directory / "model.safetensors", {"format": "pt"})
    else:
        transpose_experts(directory)
    assert set(open_checkpoint(directory).tensors.items()) != names
    assert [(gate.address, gate.rows) for gate in gates_of(directory)] == before
    check_gate_rows(directory, family)


@pytest.mark.parametrize("family", sorted(REMOTE_CODE))
def test_families_of_remote_code_have_the_rows_of_the_model_they_are_like(
    family: str, written: Any
) -> None:
    # No class in transformers computes with these files: the values must be those of the twin.
    twin = REMOTE_CODE[family][0]
    checkpoints = [open_checkpoint(written(name)) for name in (family, twin)]
    theirs, twins = (find_gate_matrices(checkpoint) for checkpoint in checkpoints)
    assert [gate.address for gate in theirs] == [gate.address for gate in twins]
    for one, other in zip(theirs, twins, strict=True):
        mine = read_rows(checkpoints[0], one.view)
        assert np.array_equal(mine, read_rows(checkpoints[1], other.view))


@pytest.mark.parametrize(("family", "name"), LOOK_ALIKES.items())
def test_look_alikes_of_the_family_do_not_match(family: str, name: str, written: Any) -> None:
    checkpoint = open_checkpoint(written(family))
    assert name in checkpoint.tensors
    assert name not in {gate.tensor for gate in find_gate_matrices(checkpoint)}


@pytest.mark.parametrize("family", ["deepseek_v3", "glm4_moe", "glm4_moe_lite"])
def test_blocks_for_predicting_further_tokens_are_left_alone(
    family: str, written: Any, tmp_path: Path
) -> None:
    directory = copied(written(family), tmp_path / "model")
    before = gates_of(directory)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    last = {name: tensor for name, tensor in tensors.items() if ".layers.2." in name}
    further = {name.replace(".2.", ".3.", 1): tensor + 1 for name, tensor in last.items()}
    further["model.layers.3.eh_proj.weight"] = torch.ones(D, 2 * D)
    save_file({**tensors, **further}, path, {"format": "pt"})
    set_config(directory, num_nextn_predict_layers=1)
    assert [gate.address for gate in gates_of(directory)] == [gate.address for gate in before]
    set_config(directory, num_nextn_predict_layers=0)
    with pytest.raises(UnsupportedModelError, match="found gate matrices of 4 blocks, expected 3"):
        gates_of(directory)


def test_granite_without_experts_has_its_shared_mlp(tmp_path: Path) -> None:
    directory = write_tiny_model(tmp_path / "model", "granitemoehybrid", num_local_experts=0)
    assert rows_by_branch(gates_of(directory)) == {"shared": 3 * 40}
    check_gate_rows(directory, "granitemoehybrid")


@pytest.mark.parametrize(
    ("family", "setting", "none"),
    [("deepseek", "n_shared_experts", None), ("ernie4_5_moe", "moe_num_shared_experts", 0)],
)
def test_shared_experts_are_there_if_the_configuration_says_so(
    family: str, setting: str, none: object, written: Any, tmp_path: Path
) -> None:
    directory = copied(written(family), tmp_path / "model")
    path = directory / "model.safetensors"
    tensors = load_file(path)
    routed = {name: tensor for name, tensor in tensors.items() if ".shared_experts." not in name}
    save_file(routed, path, {"format": "pt"})
    with pytest.raises(UnsupportedModelError, match="not a complete set of gate matrices"):
        gates_of(directory)
    set_config(directory, **{setting: none})
    assert rows_by_branch(gates_of(directory)) == FIRST_DENSE
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UnsupportedModelError, match="not a complete set of gate matrices"):
        gates_of(directory)


@pytest.mark.parametrize("family", ["gpt_oss", "granitemoe", "llama4_text", "phi3"])
def test_the_other_half_would_be_noticed(family: str, written: Any, tmp_path: Path) -> None:
    """The measure of these tests tells up rows from gate rows: in up rows the MLP is linear."""
    directory = copied(written(family), tmp_path / "model")
    content = json.dumps(built_in_layouts()[family].model_dump())
    for right, wrong in (("first half", "second half"), ('"even"', '"odd"')):
        content = content.replace(right, wrong)
    gates = tuple(
        gate
        for gate in find_gate_matrices(
            open_checkpoint(directory), GateLayout.model_validate_json(content)
        )
        if gate.branch == ("mlp" if family == "phi3" else "experts")
    )
    base = load(directory, family)
    mark_on_disk(directory, gates)
    places = find_marks(base, load(directory, family))
    for number in one_of_each_branch(gates):
        bend, second_neuron = nonlinearity(base, *places[number])
        assert bend < 1e-3
        assert second_neuron < 1e-3


def copied(source: Path, target: Path) -> Path:
    """A copy that may be changed, without the tokenizer."""
    target.mkdir()
    for name in ("config.json", "model.safetensors"):
        (target / name).write_bytes((source / name).read_bytes())
    return target


def set_config(directory: Path, **settings: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def transpose_experts(directory: Path) -> None:
    """Store fused experts as [expert, column, row], as the hub's files of Qwen 3 VL MoE do."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if ".experts." in name:
            tensors[name] = tensor.transpose(1, 2).contiguous()
    save_file(tensors, path, {"format": "pt"})
