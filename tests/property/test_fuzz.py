"""Fuzzed headers, indexes and manifests: read consistently or refused by name, nothing written.

The cases come from a seeded generator and are counted: 11,000 here, 9,000 of journals elsewhere.
"""

import json
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors

from fuzzing import NAMES, damaged, flipped, hostile, little_memory, state
from killing import copy_tree
from modelsurgery import SurgeryError, apply_to_copy, load_edit, open_checkpoint
from modelsurgery.apply.in_place import apply_in_place
from modelsurgery.apply.manifest import read_manifest
from modelsurgery.apply.undoing import undo
from modelsurgery.apply.verification import verify
from modelsurgery.checkpoint.header import StoredTensor, read_header
from modelsurgery.errors import (
    ArtifactError,
    CheckpointError,
    UnsupportedModelError,
    VerificationError,
)
from operated import Operated, make_operated

INDEX = "model.safetensors.index.json"
HEADER = {
    "__metadata__": {"format": "pt"},
    "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b.weight": {"dtype": "BF16", "shape": [4, 2], "data_offsets": [24, 40]},
    "c": {"dtype": "I64", "shape": [], "data_offsets": [40, 48]},
    "d": {"dtype": "U8", "shape": [0], "data_offsets": [48, 48]},
}
DATA = bytes(range(48))


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Operated:
    return make_operated(tmp_path_factory.mktemp("operated"))


def file_of(header: Any, *, length: int | None = None) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + DATA


def truncations() -> Iterator[bytes]:
    content = file_of(HEADER)
    return (content[:length] for length in range(len(content)))


def flipped_bits() -> Iterator[bytes]:
    content = file_of(HEADER)
    return (flipped(content, bit) for bit in range(8 * (len(content) - len(DATA))))


def other_lengths() -> Iterator[bytes]:
    size = len(file_of(HEADER))
    powers = (2**power + more for power in range(3, 64) for more in (-8, -1, 0, 1, 7))
    return (file_of(HEADER, length=length) for length in (*range(size + 9), *powers))


def hostile_headers() -> Iterator[bytes]:
    generator = random.Random(1)
    for _ in range(3_000):
        header: Any = HEADER
        for _ in range(generator.choice((1, 1, 1, 2, 3))):
            header = hostile(header, generator)
        yield file_of(header)


def damaged_files() -> Iterator[bytes]:
    generator = random.Random(2)
    return (damaged(file_of(HEADER), generator) for _ in range(2_000))


def repeated_names() -> Iterator[bytes]:
    text = json.dumps(HEADER)
    entries = [json.dumps({name: entry})[1:-1] for name, entry in HEADER.items()]
    return (file_of(f"{text[:-1]}, {entry}}}".encode()) for entry in entries)


def deep_and_long() -> Iterator[bytes]:
    for depth in (10, 500, 990, 1_010, 10_000, 200_000):
        for opening in (b"[", b'{"a":', b'{"a":[', b"{"):
            yield file_of(opening * depth)
    for digits in (20, 4_301, 100_000):
        entry = '{"dtype": "F32", "shape": [%s], "data_offsets": [0, 48]}' % ("9" * digits)
        yield file_of(f'{{"a": {entry}}}'.encode())
    shape = [2**62] * 5_000
    yield file_of({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 48]}})


@pytest.mark.parametrize(
    ("files", "count"),
    [
        (truncations, 360),
        (flipped_bits, 2_496),
        (other_lengths, 674),
        (hostile_headers, 3_000),
        (damaged_files, 2_000),
        (repeated_names, 5),
        (deep_and_long, 28),
    ],
)
def test_headers(tmp_path: Path, files: Callable[[], Iterator[bytes]], count: int) -> None:
    path = tmp_path / "model.safetensors"
    cases = refusals = 0
    for content in files():
        cases += 1
        path.write_bytes(content)
        before = state(tmp_path)
        try:
            found = read_header(path)
        except CheckpointError:
            refusals += 1
        else:
            check_header(found, content)
        assert state(tmp_path) == before
    assert cases == count
    assert refusals > cases / 2


def test_huge_claims_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with little_memory():
        for content in (*other_lengths(), *deep_and_long()):
            path.write_bytes(content)
            with suppress(CheckpointError):
                read_header(path)


def check_header(found: dict[str, StoredTensor], content: bytes) -> None:
    """Tensors are where the safetensors library finds them, if it reads such a file at all."""
    place = 8 + struct.unpack("<Q", content[:8])[0]
    for tensor in sorted(found.values(), key=lambda one: (one.start, one.size_bytes)):
        assert tensor.start == place
        place += tensor.size_bytes
    assert place == len(content)
    try:
        expected = dict(safetensors.deserialize(content))
    except safetensors.SafetensorError:
        return
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert (tensor.dtype, list(tensor.shape)) == (
            expected[name]["dtype"],
            expected[name]["shape"],
        )
        assert content[tensor.start : tensor.start + tensor.size_bytes] == expected[name]["data"]


@pytest.mark.parametrize("file", [INDEX, "config.json"])
def test_indexes_and_configurations(operated: Operated, tmp_path: Path, file: str) -> None:
    model = copy_tree(operated.base, tmp_path / "model")
    shutil.copy(model / "model-00001-of-00003.safetensors", tmp_path / "outside.safetensors")
    expected = open_checkpoint(model).tensors
    cases = 0
    for content in variants(model / file, 500):
        cases += 1
        (model / file).write_bytes(content)
        before = state(tmp_path)
        try:
            found = open_checkpoint(model).tensors
        except (CheckpointError, UnsupportedModelError):
            pass
        else:
            assert found.items() <= expected.items()
            assert file == INDEX or found == expected
        assert state(tmp_path) == before
    assert cases == 1_000


def variants(path: Path, count: int) -> Iterator[bytes]:
    """Of a JSON file, so many hostile ones and as many damaged ones."""
    generator = random.Random(3)
    content = path.read_bytes()
    parsed = json.loads(content)
    for _ in range(count):
        yield json.dumps(hostile(parsed, generator)).encode()
        yield damaged(content, generator)


@pytest.mark.parametrize("name", [*NAMES, "outside", "-", "x" * 256, "a\\b", "./model", "/"])
def test_names_of_files(operated: Operated, tmp_path: Path, name: str) -> None:
    """A name in an index, a manifest or a list of journals leads to no file outside."""
    model = copy_tree(operated.edited, tmp_path / "model")
    shutil.copy(model / "model-00001-of-00003.safetensors", tmp_path / "outside.safetensors")
    index, manifest = (json.loads((model / file).read_text()) for file in (INDEX, "surgery.json"))
    index["weight_map"]["lm_head.weight"] = name
    (model / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError):
        open_checkpoint(model)
    shutil.copy(operated.base / INDEX, model)

    for change in (
        {"files": {name: "0" * 64}},
        {"weights": {name: {"header": "0" * 64, "tensors": {}}}},
        {"operations": [{**manifest["operations"][0], "journal": name}]},
    ):
        (model / "surgery.json").write_text(json.dumps({**manifest, **change}))
        before = state(tmp_path)
        with suppress(SurgeryError):
            assert verify(model).wrong
        if "operations" in change:
            with pytest.raises(VerificationError, match="not a readable manifest"):
                apply_to_copy(model, [load_edit(operated.second)], tmp_path / "copy")
        assert state(tmp_path) == before


def test_manifests(operated: Operated, tmp_path: Path) -> None:
    made = apply_to_copy(operated.base, [load_edit(operated.first)], tmp_path / "model")
    model, path = made.directory, made.directory / "surgery.json"
    expected, verified = read_manifest(model), verify(model)
    cases = unchanged = 0
    for content in variants(path, 250):
        cases += 1
        path.write_bytes(content)
        before = state(tmp_path)
        try:
            found = read_manifest(model)
            compared = verify(model)
        except SurgeryError:
            pass
        else:
            # What is recorded is right, wrong and said so, or missing from what was compared.
            whole = {**expected.files, **hashes(expected)}
            recorded = {**found.files, **hashes(found)}
            assert compared.wrong or recorded.items() <= whole.items()
            unchanged += compared == verified
        assert state(tmp_path) == before
    assert cases == 500
    assert 0 < unchanged < cases / 2


def hashes(manifest: Any) -> dict[str, str]:
    return {
        f"{file}/{name}": digest
        for file, one in manifest.weights.items()
        for name, digest in {"": one.header, **one.tensors}.items()
    }


UNWRITABLE = {
    "nested too deeply": lambda text: text.replace(b'"rows":', b'"x": ' + DEEP + b', "rows":', 1),
    "half a surrogate pair": lambda text: text.replace(b'"rows":', b'"\\ud800": 0, "rows":', 1),
    "not a number": lambda text: text.replace(b'"rows":', b'"x": NaN, "rows":', 1),
    "UTF-16": lambda text: text.decode().encode("utf-16"),
    "a mark before UTF-8": lambda text: b"\xef\xbb\xbf" + text,
}
DEEP = b"[" * 300 + b"]" * 300


@pytest.mark.parametrize("name", UNWRITABLE)
def test_manifest_that_could_not_be_written_again(
    operated: Operated, tmp_path: Path, name: str
) -> None:
    model = copy_tree(operated.edited, tmp_path / "model")
    content = (model / "surgery.json").read_bytes()
    (model / "surgery.json").write_bytes(UNWRITABLE[name](content))
    before = state(tmp_path)
    edits = [load_edit(operated.second)]
    for surgery in (
        lambda: apply_in_place(model, edits),
        lambda: apply_to_copy(model, edits, tmp_path / "copy"),
        lambda: verify(model),
        lambda: undo(model),
    ):
        with pytest.raises(VerificationError, match="not a readable manifest"):
            surgery()
        assert state(tmp_path) == before


@pytest.mark.parametrize("value", [float("nan"), "\ud800", json.loads(DEEP)], ids=type)
def test_edit_that_could_not_be_written_down(
    operated: Operated, tmp_path: Path, value: object
) -> None:
    """An edit tells journal and manifest where it comes from, so that must be JSON."""
    content = operated.first.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    ((key, text),) = header["__metadata__"].items()
    description = json.loads(text)
    description["provenance"]["settings"] = {"more": value}
    header["__metadata__"][key] = json.dumps(description)
    new = json.dumps(header).encode()
    path = tmp_path / "edit.safetensors"
    path.write_bytes(struct.pack("<Q", len(new)) + new + content[8 + length :])
    with pytest.raises(ArtifactError, match="not a valid edit"):
        load_edit(path)
