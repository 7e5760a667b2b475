"""Damaged and hostile model directories on the command line: exit 1 and one line."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command_line import Made, Refused
from tiny import write_tiny_model

GATE = "model.layers.1.mlp.gate_proj.weight"
INDEX = "model.safetensors.index.json"


def write_header(path: Path, header: bytes | dict[str, Any], *, claim: int | None = None) -> None:
    """Put another header before the data of a safetensors file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    new = header if isinstance(header, bytes) else json.dumps(header).encode()
    prefix = struct.pack("<Q", len(new) if claim is None else claim)
    path.write_bytes(prefix + new + content[8 + length :])


def read_header(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    return header


def with_entry(**changes: Any) -> Callable[[Path], None]:
    """Change the header's entry of one gate matrix."""

    def change(path: Path) -> None:
        header = read_header(path)
        header[GATE].update(changes)
        write_header(path, header)

    return change


def moved_onto_another(path: Path) -> None:
    header = read_header(path)
    other = "model.layers.0.mlp.gate_proj.weight"
    header[GATE]["data_offsets"] = header[other]["data_offsets"]
    write_header(path, header)


def named_twice(path: Path) -> None:
    text = json.dumps(read_header(path))
    entry = json.dumps({GATE: read_header(path)[GATE]})[1:-1]
    write_header(path, ("{" + entry + ", " + text[1:]).encode())


HOSTILE_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (lambda path: path.write_bytes(b"") and None, "0 bytes is too short"),
    "cut in the header": (lambda path: path.write_bytes(path.read_bytes()[:99]) and None, "claims"),
    "cut in the data": (
        lambda path: path.write_bytes(path.read_bytes()[:-4]) and None,
        "the file is truncated",
    ),
    "too long": (lambda path: path.write_bytes(path.read_bytes() + b"0") and None, "tensors end"),
    "huge length": (lambda path: write_header(path, b"{}", claim=2**64 - 1), "claims 184467440737"),
    "no JSON": (lambda path: write_header(path, b"{purple}"), "not valid JSON"),
    "no object": (lambda path: write_header(path, b"[1, 2]"), "found list"),
    "too deep": (lambda path: write_header(path, b"[" * 100_000), "not valid JSON"),
    "a huge integer": (lambda path: write_header(path, b"9" * 10_000), "not valid JSON"),
    "named twice": (named_twice, "a name occurs twice"),
    "overlapping": (moved_onto_another, "overlaps another"),
    "negative offset": (with_entry(data_offsets=[-6144, 0]), f"entry of tensor {GATE!r}"),
    "offsets turned round": (with_entry(data_offsets=[9000, 2856]), "is malformed"),
    "three offsets": (with_entry(data_offsets=[0, 1, 2]), "is malformed"),
    "another shape": (with_entry(shape=[48, 33]), "is malformed"),
    "negative shape": (with_entry(shape=[-48, -32]), "is malformed"),
    "a shape of 2^126": (with_entry(shape=[2**63 - 1] * 2), "is malformed"),
    "a shape of booleans": (with_entry(shape=[True, True]), "is malformed"),
    "unknown dtype": (with_entry(dtype="F7"), "is malformed"),
}


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_damaged_or_hostile_weights(
    refused: Refused, made: Made, tmp_path: Path, name: str
) -> None:
    change, says = HOSTILE_FILES[name]
    model = tmp_path / "model"
    shutil.copytree(made.model, model)
    change(model / "model.safetensors")
    out = ("--out", tmp_path / "out")
    line = refused("apply", model, made.edit, *out, code=1, says=says)
    assert str(model) in line
    assert refused("probe", model, "--texts", made.texts, *out, code=1, says=says) == line


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sharded") / "model"
    return write_tiny_model(directory, max_shard_size="40KB")


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("../model-00001-of-00003.safetensors", "expected the plain name of a file"),
        ("/etc/passwd", "points to '/etc/passwd'; expected the plain name"),
        ("..", "points to '..'; expected the plain name"),
        ("", "points to ''; expected the plain name"),
        (["model.safetensors"], "expected the plain name"),
        ("missing.safetensors", "names missing.safetensors, which is missing"),
        ("two\nlines\x1b[2J.safetensors", "two lines[2J.safetensors, which is missing"),
        ("nul\0.safetensors", "expected the plain name"),
        ("x" * 300, "which is missing"),
        ("config.json", "config.json"),
    ],
)
def test_hostile_file_name_in_the_index(
    refused: Refused, made: Made, sharded: Path, tmp_path: Path, file: object, says: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(sharded, model)
    index = json.loads((model / INDEX).read_text())
    index["weight_map"][GATE] = file
    (model / INDEX).write_text(json.dumps(index))
    refused("apply", model, made.edit, "--out", tmp_path / "out", code=1, says=says)


def test_missing_shard(refused: Refused, made: Made, sharded: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(sharded, model)
    shard = sorted(model.glob("*.safetensors"))[1]
    shard.unlink()
    says = f"names {shard.name}, which is missing; the download is incomplete"
    refused("apply", model, made.edit, "--out", tmp_path / "out", code=1, says=says)


@pytest.mark.parametrize("content", ["{}", "[]", '{"weight_map": {}}', '{"weight_map": 3}', "{"])
def test_index_that_is_none(
    refused: Refused, made: Made, sharded: Path, tmp_path: Path, content: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(sharded, model)
    (model / INDEX).write_text(content)
    refused("apply", model, made.edit, "--out", tmp_path / "out", code=1, says=INDEX)


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"num_hidden_layers": 10**15}, 2, "found gate matrices of 3 blocks"),
        ({"num_hidden_layers": -3}, 2, "num_hidden_layers -3; expected a whole number"),
        ({"num_hidden_layers": "3"}, 2, "num_hidden_layers '3'; expected a whole number"),
        ({"hidden_size": 64}, 2, "expected [row, column] with column = 64"),
        ({"model_type": ["llama"]}, 2, "no layout for model type ['llama']"),
        ({"quantization_config": {}}, 2, "its weights are quantized"),
    ],
)
def test_configuration_that_contradicts_the_weights(
    refused: Refused, made: Made, tmp_path: Path, changes: dict[str, Any], code: int, says: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(made.model, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **changes}))
    refused("apply", model, made.edit, "--out", tmp_path / "out", code=code, says=says)


def test_directory_without_configuration_or_weights(
    refused: Refused, made: Made, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    out = ("--out", tmp_path / "out")
    refused("apply", model, made.edit, *out, code=2, says="has no config.json")
    shutil.copy(made.model / "config.json", model)
    refused("apply", model, made.edit, *out, code=2, says="has neither model.safetensors nor")
    (model / "config.json").write_text("{")
    refused("apply", model, made.edit, *out, code=1, says="config.json: not valid JSON")
