"""Which parts an edited object is made of, so that few bytes go through the client.

A part of an upload has 5 MiB to 5 GiB, but for the last, which may be of any size. Unchanged bytes
are copied by the server, and changed rows lie close together: between two of them there are
kilobytes. So stretches with changed rows are cut into blocks, and a block is put together by the
server too, a piece at a time: an object of everything so far (5 MiB of something in front make it
long enough) and one piece more, which is the last part and so may be small. That takes four
requests a piece; where pieces are so many that sending the block is cheaper, it is sent.
"""

import bisect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

from modelsurgery.checkpoint.remote import NEAR_BYTES

SMALLEST_PART_BYTES = 5 << 20
LARGEST_COPY_BYTES = 512 << 20  # several copies at a time are faster than one
BLOCK_BYTES = 8 << 20
MOST_PARTS = 10_000
# What the requests for a piece cost, in bytes that could be sent or received instead.
PIECE_BYTES = 64 << 10

Stretch = tuple[int, int]  # first byte, one past the last


@dataclass(frozen=True)
class Piece:
    """Bytes `start:stop` that are all copied or, where they change, all sent."""

    start: int
    stop: int
    changed: bool

    @property
    def size(self) -> int:
        """In bytes."""
        return self.stop - self.start


@dataclass(frozen=True)
class FilePart:
    """A part of an edited file: pieces that the server joins, or that are read and sent together.

    A single piece that is not changed is copied.
    """

    pieces: tuple[Piece, ...]
    joined: bool = False

    @property
    def start(self) -> int:
        """First byte."""
        return self.pieces[0].start

    @property
    def stop(self) -> int:
        """One past the last byte."""
        return self.pieces[-1].stop

    @property
    def is_copy(self) -> bool:
        """Whether nothing in it changes."""
        return not any(piece.changed for piece in self.pieces)


def near_together(stretches: Iterable[Stretch]) -> list[Stretch]:
    """Stretches, sorted, with those joined that are less than `NEAR_BYTES` apart."""
    found: list[Stretch] = []
    for start, stop in sorted(stretches):
        if found and start - found[-1][1] < NEAR_BYTES:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        else:
            found.append((start, stop))
    return found


def file_parts_of(size: int, changed: Iterable[Stretch]) -> list[FilePart]:
    """Parts of a file of `size` bytes, in order, that cover it once.

    All but the last have at least 5 MiB, none over 5 GiB, and there are at most 10,000.
    """
    runs = near_together(changed)
    parts: list[FilePart] = []
    place = 0
    for start, stop in _regions(size, runs):
        parts += _copies(place, start, size)
        parts += (_block(size, block, runs) for block in _blocks(start, stop, size))
        place = stop
    return parts + list(_copies(place, size, size))


def _regions(size: int, runs: Sequence[Stretch]) -> list[Stretch]:
    """What cannot be copied whole: changes, and what is too short between and before them."""
    found: list[Stretch] = []
    least = max(SMALLEST_PART_BYTES, _share(size))
    for start, stop in runs:
        begin = 0 if start < least else start
        if found and begin - found[-1][1] < least:
            begin, before = found.pop()
            stop = max(stop, before)
        found.append((begin, min(size, max(stop, begin + least))))
    return found


def _copies(start: int, stop: int, size: int) -> Iterator[FilePart]:
    for one in _cut(start, stop, -(-(stop - start) // max(LARGEST_COPY_BYTES, _share(size)))):
        yield FilePart((Piece(*one, changed=False),))


def _blocks(start: int, stop: int, size: int) -> list[Stretch]:
    return _cut(start, stop, max(1, (stop - start) // max(BLOCK_BYTES, _share(size))))


def _share(size: int) -> int:
    """So long a part that there are not too many."""
    return -(-size * 3 // MOST_PARTS)


def _cut(start: int, stop: int, count: int) -> list[Stretch]:
    """Equal stretches, but for a byte."""
    edges = (start + (stop - start) * number // count for number in range(count + 1))
    return list(itertools.pairwise(edges)) if count else []


def _block(size: int, block: Stretch, runs: Sequence[Stretch]) -> FilePart:
    pieces = tuple(_pieces(*block, runs))
    copied = sum(piece.size for piece in pieces if not piece.changed)
    joined = len(pieces) * PIECE_BYTES < 2 * copied and size >= SMALLEST_PART_BYTES
    return FilePart(pieces, joined and len(pieces) > 1)


def _pieces(start: int, stop: int, runs: Sequence[Stretch]) -> Iterator[Piece]:
    place = start
    for number in range(bisect.bisect_right(runs, start, key=itemgetter(1)), len(runs)):
        first, last = max(runs[number][0], start), min(runs[number][1], stop)
        if first >= last:
            break
        if place < first:
            yield Piece(place, first, changed=False)
        yield Piece(first, last, changed=True)
        place = last
    if place < stop:
        yield Piece(place, stop, changed=False)
