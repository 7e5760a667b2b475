"""Damaged and hostile content from a seeded generator, and what nothing may have changed."""

import copy
import os
import random
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MOST_MEMORY_BYTES = 16 << 20
NAMES = (
    *("", ".", "..", "../outside.safetensors", "a/b", "/etc/passwd", "config.json", "missing"),
    *("nul\0", "x" * 300, "\ud800", "\u202etxt", "ünï", "\U0001f9e0", "two\nlines\x1b[2J", " "),
)
NUMBERS = (
    *(-(2**63), -1, 0, 1, 2, 47, 48, 2**31, 2**53 + 1, 2**62 - 1, 2**62, 2**63 - 1, 2**63, 2**64),
    *(10**400, -0.0, 0.5, 1.0, 1e300, float("inf"), float("nan")),
)
OTHERS = (
    *(None, True, False, [], {}, [[]], [{}], {"": 0}, [0, 1], [1, 0], [2**62] * 70, [-1], ["0"]),
    *("BF16", "F16", "F64", "F4", "BOOL", "0" * 64, "g" * 64, "0001", "9999", 10 * [0]),
)


def hostile_value(generator: random.Random) -> Any:
    """A number, a name or something else that does not belong there."""
    return copy.deepcopy(generator.choice(generator.choice((NAMES, NUMBERS, OTHERS))))


def hostile(content: Any, generator: random.Random) -> Any:
    """The same JSON value with one place replaced, removed, repeated or renamed."""
    changed = copy.deepcopy(content)
    inner, key = generator.choice(list(_places(changed)))
    change = generator.choice(("replace", "replace", "replace", "remove", "repeat"))
    if change == "replace":
        inner[key] = hostile_value(generator)
    elif change == "remove":
        del inner[key]
    elif isinstance(inner, list):
        inner.insert(generator.randrange(len(inner) + 1), copy.deepcopy(inner[key]))
    else:
        inner[generator.choice((*NAMES, *map(str, inner)))] = copy.deepcopy(inner[key])
    return changed


def _places(content: Any) -> Any:
    """Every container inside a JSON value with every key of it."""
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield content, key
            yield from _places(content[key])


def damaged(content: bytes, generator: random.Random) -> bytes:
    """The same bytes, cut, or a few of them changed, inserted, removed or repeated."""
    changed = bytearray(content)
    for _ in range(generator.randint(1, 3)):
        place = generator.randrange(len(changed) + 1)
        length = generator.choice((1, 1, 2, 5, 40))
        kind = generator.choice(("set", "set", "insert", "remove", "repeat", "cut"))
        if kind == "cut":
            del changed[place:]
        elif kind == "remove":
            del changed[place : place + length]
        elif kind == "repeat":
            changed[place:place] = changed[place : place + length]
        else:
            new = generator.choice((generator.randbytes(length), b"-", b"[", b'"', b"9", b"0"))
            changed[place : place + (len(new) if kind == "set" else 0)] = new
    return bytes(changed)


def flipped(content: bytes, bit: int) -> bytes:
    """The same bytes but for one bit."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


@contextmanager
def little_memory() -> Iterator[None]:
    """The block takes little, whatever numbers the small files that it reads claim."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST_MEMORY_BYTES


def state(directory: Path) -> list[tuple[str, int, int, int, int]]:
    """Of everything below a directory: path, kind and rights, size, time of change, number.

    It is another one as soon as anything is written, made, renamed or removed.
    """
    found = []
    for path, _, names in os.walk(directory):
        for name in (".", *names):
            place = os.path.join(path, name)  # noqa: PTH118 - called ten thousand times
            stat = os.lstat(place)
            found.append((place, stat.st_mode, stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return found
