"""Damaged files are read with the same result or refused by name, never with another error."""

import json
import shutil
import struct
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelsurgery.checkpoint.directory import Checkpoint, open_checkpoint, read_header
from modelsurgery.checkpoint.layouts import find_gate_matrices
from modelsurgery.edit.changes import tensor_changes
from modelsurgery.edit.edit import Edit, RowUpdate, make_edit
from modelsurgery.edit.edit_file import load_edit, save_edit
from modelsurgery.edit.probe import Probe, load_probe, save_probe
from modelsurgery.edit.region import score_rows, select_region
from modelsurgery.errors import ArtifactError, CheckpointError, UnsupportedModelError
from modelsurgery.files.artifact import read_artifact, write_artifact
from tiny import read_rows, write_tiny_model

INDEX = "model.safetensors.index.json"
COMMON = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NAMES = st.text(max_size=12) | st.sampled_from(["__metadata__", "config.json", "..", "a/b", "a\0"])
HOSTILE_NUMBERS = st.sampled_from([-1, 0, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e400])
JSON = st.recursive(
    st.none() | st.booleans() | HOSTILE_NUMBERS | st.integers() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("single") / "model", hidden_size=16, head_dim=4)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sharded") / "model"
    return write_tiny_model(directory, hidden_size=16, head_dim=4, max_shard_size="20KB")


@pytest.fixture(scope="module")
def edit(single: Path) -> Edit:
    checkpoint = open_checkpoint(single)
    direction = np.linspace(-1, 1, 16, dtype=np.float32)
    scores = score_rows(checkpoint, find_gate_matrices(checkpoint), direction[None])
    return make_edit(select_region(scores, 20), direction, alpha=1.0).bound_to(checkpoint)


@pytest.fixture(scope="module")
def edit_bytes(edit: Edit, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("edit") / "edit.safetensors"
    save_edit(edit, path)
    return path.read_bytes()


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A file to write damaged content to, again and again."""
    return tmp_path / "damaged.safetensors"


@st.composite
def damage(draw: st.DrawFn, content: bytes, reach: int) -> bytes:
    """Cut the content, or change, insert or remove a few of its first `reach` bytes."""
    damaged = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, min(reach, len(damaged)) - 1)))
        kind = draw(st.sampled_from(["cut", "set", "insert", "remove"]))
        if kind == "cut":
            del damaged[place:]
        elif kind == "remove":
            del damaged[place : place + draw(st.integers(1, 40))]
        else:
            new = draw(
                st.binary(min_size=1, max_size=4) | st.sampled_from([b"-", b"[", b'"', b"9"])
            )
            damaged[place : place + (len(new) if kind == "set" else 0)] = new
    return bytes(damaged)


def looked_at(directory: Path) -> tuple[Checkpoint, list[np.ndarray]]:
    """Everything that surgery reads of a checkpoint."""
    checkpoint = open_checkpoint(directory)
    gates = find_gate_matrices(checkpoint)
    return checkpoint, [read_rows(checkpoint, gate.view) for gate in gates]


def copied(source: Path, destination: str) -> Path:
    return Path(shutil.copytree(source, Path(destination) / "model"))


def check_refused_or_consistent(directory: Path) -> None:
    try:
        checkpoint, rows = looked_at(directory)
    except (CheckpointError, UnsupportedModelError):
        return
    for tensor in checkpoint.tensors.values():
        size = (directory / tensor.file).stat().st_size
        assert 0 < tensor.start <= tensor.start + tensor.size_bytes <= size
    assert {part.shape[1] for part in rows} == {16}


@COMMON
@given(data=st.data())
def test_damaged_weights(single: Path, data: st.DataObject) -> None:
    with TemporaryDirectory() as directory:
        model = copied(single, directory)
        content = (model / "model.safetensors").read_bytes()
        (header_bytes,) = struct.unpack("<Q", content[:8])
        damaged = data.draw(damage(content, 8 + header_bytes))
        (model / "model.safetensors").write_bytes(damaged)
        check_refused_or_consistent(model)


@COMMON
@given(data=st.data())
def test_truncated_file_is_always_refused(
    single: Path, edit_bytes: bytes, scratch: Path, data: st.DataObject
) -> None:
    scratch.write_bytes(edit_bytes[: data.draw(st.integers(0, len(edit_bytes) - 1))])
    with pytest.raises(ArtifactError):
        load_edit(scratch)
    content = (single / "model.safetensors").read_bytes()
    scratch.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(CheckpointError):
        read_header(scratch)


@COMMON
@given(data=st.data())
def test_hostile_header(single: Path, data: st.DataObject) -> None:
    with TemporaryDirectory() as directory:
        model = copied(single, directory)
        content = (model / "model.safetensors").read_bytes()
        (header_bytes,) = struct.unpack("<Q", content[:8])
        header: dict[str, Any] = json.loads(content[8 : 8 + header_bytes])
        name = data.draw(st.sampled_from(sorted(header)) | NAMES)
        field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", None]))
        if field is None or not isinstance(header.get(name), dict):
            header[name] = data.draw(JSON)
        else:
            header[name][field] = data.draw(JSON | st.lists(HOSTILE_NUMBERS, max_size=3))
        new = json.dumps(header).encode()
        whole = struct.pack("<Q", len(new)) + new + content[8 + header_bytes :]
        (model / "model.safetensors").write_bytes(whole)
        check_refused_or_consistent(model)


@COMMON
@given(data=st.data())
def test_damaged_or_hostile_index_and_configuration(sharded: Path, data: st.DataObject) -> None:
    with TemporaryDirectory() as directory:
        model = copied(sharded, directory)
        path = model / data.draw(st.sampled_from([INDEX, "config.json"]))
        content = path.read_bytes()
        if data.draw(st.booleans()):
            path.write_bytes(data.draw(damage(content, len(content))))
        else:
            parsed: dict[str, Any] = json.loads(content)
            inner = parsed["weight_map"] if path.name == INDEX else parsed
            inner[data.draw(st.sampled_from(sorted(inner)) | NAMES)] = data.draw(JSON)
            path.write_text(json.dumps(parsed))
        check_refused_or_consistent(model)


@pytest.mark.parametrize("depth", [900, 5_000, 200_000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deeply_nested_json(sharded: Path, tmp_path: Path, opening: str, depth: int) -> None:
    model = copied(sharded, str(tmp_path))
    for file in (INDEX, "config.json"):
        (model / file).write_text(opening * depth)
        with pytest.raises(CheckpointError, match="not valid JSON"):
            open_checkpoint(model)


def same(first: Edit, second: Edit) -> bool:
    tensors = ("rows", "coefficients", "direction", "base_samples")
    return (
        (first.alpha, first.strength, first.candidate_rows, first.provenance)
        == (second.alpha, second.strength, second.candidate_rows, second.provenance)
        and len(first.updates) == len(second.updates)
        and all(
            vars(a) | dict.fromkeys(tensors) == vars(b) | dict.fromkeys(tensors)
            and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in tensors)
            for a, b in zip(first.updates, second.updates, strict=True)
        )
    )


def check_usable(edit: Edit) -> None:
    """What is read can be applied: rows in range, numbers finite."""
    if any(update.shape[0] > 10_000 for update in edit.updates):
        return  # too large to make such a matrix here

    def zeros(update: RowUpdate, rows: np.ndarray) -> np.ndarray:
        return np.zeros(update.shape, np.float32)[rows]

    of_any_rows = {"base_rows_sha256": None, "base_samples": None}
    unbound = [vars(update) | of_any_rows for update in edit.updates]
    updates = tuple(RowUpdate(**fields) for fields in unbound)
    for change in tensor_changes([Edit(updates, edit.alpha, 1.0, 1)], zeros):
        assert np.isfinite(change.after).all()


@COMMON
@given(data=st.data())
def test_damaged_edit(edit: Edit, edit_bytes: bytes, scratch: Path, data: st.DataObject) -> None:
    (header_bytes,) = struct.unpack("<Q", edit_bytes[:8])
    scratch.write_bytes(data.draw(damage(edit_bytes, 8 + header_bytes)))
    try:
        found = load_edit(scratch)
    except ArtifactError:
        return
    check_usable(found)


@COMMON
@given(data=st.data())
def test_hostile_edit(edit_bytes: bytes, scratch: Path, data: st.DataObject) -> None:
    scratch.write_bytes(edit_bytes)
    tensors, description = read_artifact(scratch, "edit")
    place = data.draw(st.sampled_from(["description", "update", "tensor"]))
    if place == "description":
        description[data.draw(st.sampled_from(sorted(description)))] = data.draw(JSON)
    elif place == "update":
        entry = description["updates"][0]
        entry[data.draw(st.sampled_from(sorted(entry)))] = data.draw(
            JSON | st.lists(HOSTILE_NUMBERS, min_size=2, max_size=2)
        )
    else:
        name = data.draw(st.sampled_from(sorted(tensors)))
        dtype = data.draw(st.sampled_from([np.float32, np.int32, np.int64, np.bool_]))
        value = data.draw(st.sampled_from([0, -1, 7, 48]))
        shape = data.draw(st.lists(st.integers(0, 17), max_size=3))
        tensors[name] = np.full(shape, value).astype(dtype)
    try:
        write_artifact(scratch, "edit", tensors, description)
    except ValueError:  # NaN and infinity are not JSON: no such file can be written
        return
    try:
        found = load_edit(scratch)
    except ArtifactError:
        return
    check_usable(found)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "9" * 5_000, '{"format": 1, "updates": [], "alpha": NaN}', "null", "3"]
)
def test_hostile_description(edit_bytes: bytes, scratch: Path, text: str) -> None:
    (header_bytes,) = struct.unpack("<Q", edit_bytes[:8])
    header = json.loads(edit_bytes[8 : 8 + header_bytes])
    header["__metadata__"]["modelsurgery.edit"] = text
    new = json.dumps(header).encode()
    scratch.write_bytes(struct.pack("<Q", len(new)) + new + edit_bytes[8 + header_bytes :])
    with pytest.raises(ArtifactError):
        load_edit(scratch)


def test_undamaged_edit_is_read_with_the_same_result(
    edit: Edit, edit_bytes: bytes, scratch: Path
) -> None:
    scratch.write_bytes(edit_bytes)
    assert same(load_edit(scratch), edit)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@COMMON
@given(data=st.data())
def test_hostile_probe(scratch: Path, data: st.DataObject) -> None:
    probe = Probe(ones(2, 16), ones(2), 3, "adam", ones(16))
    save_probe(probe, scratch)
    content = scratch.read_bytes()
    if data.draw(st.booleans()):
        (header_bytes,) = struct.unpack("<Q", content[:8])
        scratch.write_bytes(data.draw(damage(content, 8 + header_bytes)))
    else:
        tensors, description = read_artifact(scratch, "probe")
        description[data.draw(st.sampled_from(sorted(description)))] = data.draw(JSON)
        name = data.draw(st.sampled_from(sorted(tensors)))
        dtype = data.draw(st.sampled_from([np.float32, np.int32, np.float16]))
        shape = data.draw(st.lists(st.integers(0, 17), max_size=3))
        tensors[name] = np.ones(shape, dtype)
        try:
            write_artifact(scratch, "probe", tensors, description)
        except ValueError:
            return
    try:
        found = load_probe(scratch)
    except ArtifactError:
        return
    assert found.weight.dtype == found.bias.dtype == np.float32
    assert found.direction("W1").shape == (found.weight.shape[1],)
