"""Ten thousand damaged and hostile GGUF files: read alike or refused in one line, never else."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzzing import little_memory
from hostile_gguf import fuzz, sound_file
from modelsurgery import open_checkpoint
from modelsurgery.errors import CheckpointError

COUNT = 10_000


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, int]:
    return sound_file(tmp_path_factory.mktemp("sound"))


def test_ten_thousand_files(sound: tuple[bytes, int], tmp_path: Path) -> None:
    with little_memory():
        fuzz(sound, tmp_path / "warm.gguf", 50, 1)
    read, refused = fuzz(sound, tmp_path / "hostile.gguf", COUNT, 0)
    assert read + refused == COUNT
    assert read > 100  # names and metadata may be anything
    assert refused > COUNT / 2


Change = Callable[[bytes], bytes]


def put(place: int, form: str, *numbers: int) -> Change:
    new = struct.pack(form, *numbers)
    return lambda content: content[:place] + new + content[place + len(new) :]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put(0, "<I", 0), "does not begin with GGUF"),
        (put(4, "<I", 1), "version 1 of GGUF"),
        (put(4, ">I", 3), "big-endian"),
        (put(8, "<Q", 2**63), "claims 9223372036854775808 tensors"),
        (put(16, "<Q", 2**60), "pairs of metadata"),
        (put(24, "<Q", 2**63), "a name of 9223372036854775808 bytes"),
        (lambda content: content[:20], "too short"),
        (lambda content: content[:-100], "truncated"),
        (lambda content: b"", "too short"),
    ],
)
def test_each_way_to_be_wrong_has_its_line(
    sound: tuple[bytes, int], tmp_path: Path, change: Change, reason: str
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(change(sound[0]))
    with little_memory(), pytest.raises(CheckpointError, match=reason):
        open_checkpoint(path)


def entry(name: bytes = b"a", shape: tuple[int, ...] = (32,), kind: int = 0, at: int = 0) -> bytes:
    head = struct.pack("<Q", len(name)) + name + struct.pack("<I", len(shape))
    return head + struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", kind, at)


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


@pytest.mark.parametrize(
    ("pairs", "entries", "reason"),
    [
        ([], [entry(), entry(at=128)], "occurs twice"),
        ([], [entry(), entry(b"b")], "overlaps another or leaves a gap"),
        ([], [entry(at=64)], "overlaps another or leaves a gap"),
        ([], [entry(at=7)], "overlaps another or leaves a gap"),
        ([], [entry(kind=4)], "unknown type 4"),
        ([], [entry(kind=2**31)], "unknown type"),
        ([], [entry(shape=(33,), kind=2)], "cannot have shape"),
        ([], [entry(shape=(2**63, 2**63))], "cannot have shape"),
        ([], [entry(shape=(0,))], "cannot have shape"),
        ([], [entry(shape=())], "has 0 dimensions"),
        ([], [entry(shape=(1,) * 5)], "has 5 dimensions"),
        ([], [entry(shape=(2**40,))], "truncated"),
        ([pair(b"general.alignment", 4, struct.pack("<I", 0))], [entry()], "alignment 0"),
        ([pair(b"general.alignment", 4, struct.pack("<I", 12))], [entry()], "alignment 12"),
        ([pair(b"general.alignment", 8, struct.pack("<Q", 2**63))], [], "its header needs"),
        ([pair(b"k", 99, b"")], [], "unknown kind 99"),
        ([pair(b"k", 9, struct.pack("<IQ", 9, 1))], [], "array of kind 9"),
        ([pair(b"k", 9, struct.pack("<IQ", 8, 2**61))], [], "claims 2305843009213693952 texts"),
        ([pair(b"k", 9, struct.pack("<IQ", 12, 2**61))], [], "its header needs"),
        ([pair(b"k", 7, b"\1")] * 2, [], "occurs twice"),
        ([pair(b"\xff", 7, b"\1")], [], "not UTF-8"),
    ],
)
def test_headers_that_contradict_themselves(
    tmp_path: Path, pairs: list[bytes], entries: list[bytes], reason: str
) -> None:
    path = tmp_path / "model.gguf"
    head = b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(pairs))
    path.write_bytes(head + b"".join(pairs) + b"".join(entries) + bytes(1024))
    with little_memory(), pytest.raises(CheckpointError, match=reason):
        open_checkpoint(path)
