"""Parts of an edited object: they cover the file once, and a server takes them."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from modelsurgery.apply.parts import (
    NEAR_BYTES,
    SMALLEST_PART_BYTES,
    Stretch,
    file_parts_of,
    near_together,
)

MIB = 1 << 20
GIB = 1 << 30


@st.composite
def files(draw: st.DrawFn) -> tuple[int, list[Stretch]]:
    size = draw(st.integers(1, 40 * MIB) | st.integers(1, 200 * GIB))
    starts = draw(st.lists(st.integers(0, size - 1), max_size=40))
    lengths = draw(st.lists(st.integers(1, 3 * MIB), min_size=len(starts), max_size=len(starts)))
    return size, [
        (start, min(size, start + length)) for start, length in zip(starts, lengths, strict=True)
    ]


@given(files())
@settings(deadline=None)
def test_parts_cover_the_file_once_and_have_sizes_that_servers_take(
    file: tuple[int, list[Stretch]],
) -> None:
    size, changed = file
    parts = file_parts_of(size, changed)
    pieces = [piece for part in parts for piece in part.pieces]
    assert pieces[0].start == 0
    assert pieces[-1].stop == size
    assert all(one.stop == two.start for one, two in itertools.pairwise(pieces))
    assert all(one.size > 0 for one in pieces)
    assert len(parts) <= 10_000
    assert all(one.stop - one.start >= 5 * MIB for one in parts[:-1])
    assert all(one.stop - one.start <= 5 * GIB for one in parts)
    for start, stop in changed:
        inside = [one for one in pieces if one.start < stop and start < one.stop]
        assert all(one.changed for one in inside)
    # Nothing is sent that is not changed, or between changes that are near.
    sent = [(one.start, one.stop) for one in pieces if one.changed]
    assert near_together(sent) == near_together(changed)


@given(files())
@settings(deadline=None)
def test_what_moves_is_what_changes_or_less_than_its_requests_would_cost(
    file: tuple[int, list[Stretch]],
) -> None:
    size, changed = file
    for part in file_parts_of(size, changed):
        if part.is_copy:
            assert len(part.pieces) == 1
        elif not part.joined and size >= SMALLEST_PART_BYTES:
            unchanged = sum(one.size for one in part.pieces if not one.changed)
            assert 2 * unchanged <= len(part.pieces) * (64 << 10)


def test_a_file_without_changes_is_copied() -> None:
    assert all(part.is_copy for part in file_parts_of(20 * GIB, []))
    assert len(file_parts_of(20 * GIB, [])) == 40


def test_scattered_rows_are_joined_by_the_server_and_dense_ones_sent() -> None:
    row = 8192
    scattered = [(start, start + row) for start in range(64 * MIB, 128 * MIB, 400 * 1024)]
    joined = [part for part in file_parts_of(GIB, scattered) if not part.is_copy]
    assert all(part.joined for part in joined)
    sent = sum(one.size for part in joined for one in part.pieces if one.changed)
    assert sent == len(scattered) * row
    dense = [(start, start + row) for start in range(64 * MIB, 128 * MIB, row + NEAR_BYTES)]
    assert not any(part.joined for part in file_parts_of(GIB, dense))
