"""Fuzzed journals: the same way back, or refused by name, and nothing written.

A journal that was damaged by chance is found out by its hash. One that was made with intent has a
hash that is right, and all that it says must be checked.
"""

import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fuzzing import NAMES, damaged, flipped, hostile, little_memory, state
from killing import copy_tree
from modelsurgery import SurgeryError
from modelsurgery.apply.journal import load_journal
from modelsurgery.apply.undoing import undo
from modelsurgery.apply.verification import verify
from modelsurgery.checkpoint.header import header_sha256
from modelsurgery.errors import JournalError
from modelsurgery.files.atomic import sha256_json
from operated import Operated, make_operated, weights

PLACE = ".surgery/0001"
JOURNAL = f"{PLACE}/journal.json"
ROWS = f"{PLACE}/before.bin"


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Operated:
    return make_operated(tmp_path_factory.mktemp("operated"))


@pytest.fixture(autouse=True)
def without_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing takes most of the time, and nothing here is about a power cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def model(operated: Operated, tmp_path: Path) -> Path:
    """An edited model, with a shard beside its directory that nothing may touch."""
    directory = copy_tree(operated.edited, tmp_path / "model")
    shutil.copy(directory / "model-00003-of-00003.safetensors", tmp_path / "outside.safetensors")
    return directory


def seal(path: Path, content: dict[str, Any]) -> None:
    """Write a journal with the hash that belongs to it."""
    text = json.dumps({**content, "sha256": sha256_json(content)})
    path.write_text(text)


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    content.pop("sha256")
    return content


def truncations(content: bytes) -> Iterator[bytes]:
    return (content[:length] for length in range(len(content)))


def flipped_bits(content: bytes) -> Iterator[bytes]:
    generator = random.Random(1)
    return (flipped(content, 8 * byte + generator.randrange(8)) for byte in range(len(content)))


def damages(content: bytes) -> Iterator[bytes]:
    generator = random.Random(2)
    return (damaged(content, generator) for _ in range(1_000))


def hostile_values(content: bytes) -> Iterator[bytes]:
    generator = random.Random(3)
    parsed = json.loads(content)
    return (json.dumps(hostile(parsed, generator)).encode() for _ in range(1_000))


@pytest.mark.parametrize(
    ("variants", "fewest"),
    [(truncations, 2_000), (flipped_bits, 2_000), (damages, 1_000), (hostile_values, 1_000)],
)
def test_damaged_journal_is_read_as_the_very_same_or_refused(
    model: Path, variants: Callable[[bytes], Iterator[bytes]], fewest: int
) -> None:
    path = model / JOURNAL
    expected = load_journal(path.parent)
    cases = refusals = 0
    for content in variants(path.read_bytes()):
        cases += 1
        path.write_bytes(content)
        before = state(model)
        try:
            assert load_journal(path.parent) == expected
        except JournalError:
            refusals += 1
            if cases % 50 == 0:
                with pytest.raises(JournalError):
                    undo(model)
        assert state(model) == before
    assert cases >= fewest
    assert refusals > cases / 2


def test_damaged_rows_are_never_written(model: Path) -> None:
    path = model / ROWS
    content = path.read_bytes()
    cases = 0
    for changed in (*truncations(content), *flipped_bits(content)):
        cases += 1
        path.write_bytes(changed)
        before = state(model)
        with pytest.raises(JournalError, match="do not match their hash"):
            undo(model)
        assert state(model) == before
    assert cases >= 1_000
    path.write_bytes(content + b"more")
    undo(model)


def test_hostile_journal_with_the_right_hash(operated: Operated, model: Path) -> None:
    generator = random.Random(4)
    parsed = read(model / JOURNAL)
    base = weights(operated.base)
    restored = 0
    for number in range(1_000):
        changed = hostile(parsed, generator)
        if number % 5 == 0:
            changed = hostile(changed, generator)
        seal(model / JOURNAL, changed)
        before = state(model.parent)
        try:
            undo(model)
        except SurgeryError:
            assert state(model.parent) == before, changed
        else:
            restored += 1
            assert weights(model) == base, changed
            shutil.rmtree(model)
            copy_tree(operated.edited, model)
    assert 0 < restored < 500


ENTRY: dict[str, dict[str, Any]] = {
    "stride 0": {"row_stride": 0},
    "column stride 0": {"column_stride": 0},
    "a huge stride": {"row_stride": 2**61},
    "a huge column stride": {"column_stride": 2**61},
    "all of it huge": dict.fromkeys(("rows", "columns", "row_stride", "column_stride"), 2**61),
    "huge rows": {"rows": 2**61},
    "huge columns": {"columns": 2**61},
    "no columns": {"columns": 0},
    "no rows": {"numbers": []},
    "a row outside": {"numbers": [0, 48]},
    "a row far outside": {"numbers": [0, 2**61]},
    "rows turned round": {"numbers": [2, 1]},
    "a row twice": {"numbers": [1, 1]},
    "half a row": {"numbers": [0.5]},
    "a row by name": {"numbers": ["1"]},
    "a row that is true": {"numbers": [True]},
    "past the end of the tensor": {"offset": 1},
    "far past it": {"offset": 2**61},
    "before it": {"offset": -32},
    "rows that overlap": {"row_stride": 1, "columns": 700, "rows": 700},
    "another dtype": {"dtype": "F16"},
    "a dtype that cannot be edited": {"dtype": "I16"},
    "no dtype": {"dtype": "purple"},
    "another tensor": {"tensor": "model.layers.1.mlp.up_proj.weight"},
    "a tensor of another file": {"tensor": "model.layers.0.mlp.gate_proj.weight"},
    "no tensor": {"tensor": ""},
    "rows of another place": {"place": 64},
    "rows far away": {"place": 2**61},
    "another hash": {"before_sha256": "0" * 64},
    "no hash": {"before_sha256": ""},
    "a hash of other rows": {"after_sha256": "0" * 64},
    "one thing more": {"more": 1},
}


@pytest.mark.parametrize("name", ENTRY)
def test_hostile_entry_is_refused_without_taking_memory(model: Path, name: str) -> None:
    content = read(model / JOURNAL)
    content["entries"][0].update(ENTRY[name])
    check_refused(model, content)


def check_refused(model: Path, content: dict[str, Any]) -> None:
    seal(model / JOURNAL, content)
    before = state(model.parent)
    with little_memory():
        with pytest.raises(SurgeryError):
            undo(model)
        with suppress(SurgeryError):
            verify(model)
    assert state(model.parent) == before


@pytest.mark.parametrize("name", NAMES)
def test_hostile_file_name_is_refused(model: Path, name: str) -> None:
    content = read(model / JOURNAL)
    content["files"] |= {name: header_sha256(model / "model-00003-of-00003.safetensors")}
    check_refused(model, content)


def test_entries_that_repeat_or_share_rows_are_refused(model: Path) -> None:
    content = read(model / JOURNAL)
    first = content["entries"][0]
    half = {**first, "rows": first["rows"] - 1, "offset": first["columns"]}
    for other in (first, {**first, "numbers": [1]}, half):
        changed = {**content, "entries": [*content["entries"], other]}
        changed["coverage"]["tensors_edited"] = len(changed["entries"])
        changed["coverage"]["rows_edited"] = sum(len(e["numbers"]) for e in changed["entries"])
        check_refused(model, changed)


def test_overlapping_rows_of_a_large_tensor_take_no_memory(model: Path) -> None:
    """2,000 rows of a million elements each, in a tensor of two million: 4 GB if they were read."""
    half = 1 << 20
    header = {"w": {"dtype": "BF16", "shape": [2 * half], "data_offsets": [0, 4 * half]}}
    text = json.dumps(header).encode()
    path = model / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + 4 * half)
    content = read(model / JOURNAL)
    entry = content["entries"][0] | {"tensor": "w", "rows": half, "columns": half, "row_stride": 1}
    content["entries"] = [{**entry, "numbers": list(range(2_000))}]
    content["coverage"] |= {"tensors_edited": 1, "rows_edited": 2_000}
    content["files"] = {path.name: header_sha256(path)}
    check_refused(model, content)


def test_deep_journal_is_refused(model: Path) -> None:
    for depth in (100, 900, 10_000):
        (model / JOURNAL).write_text('{"a":' * depth + "0" + "}" * depth)
        with pytest.raises(JournalError):
            undo(model)


@pytest.mark.parametrize("text", ["\ud800", 7, ["{}"], {}])
def test_hostile_manifest_to_put_back_is_refused(model: Path, text: object) -> None:
    check_refused(model, {**read(model / JOURNAL), "manifest_before": text})
