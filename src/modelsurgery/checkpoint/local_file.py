"""A weight file on this machine: its bytes, read and written where they are."""

import os
from collections.abc import Iterable
from pathlib import Path

from modelsurgery.errors import CheckpointError

Buffer = tuple[memoryview, int]  # memory, and the place in a file of the bytes that belong there


class LocalFile:
    """An open weight file on this machine."""

    def __init__(self, path: Path, flags: int) -> None:
        """Open it, with flags of `os.open`."""
        self._path, self._descriptor = path, os.open(path, flags)

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)

    def sync(self) -> None:
        """Flush what was written to the disk."""
        os.fsync(self._descriptor)

    def read_into(self, pieces: Iterable[Buffer]) -> None:
        """Fill buffers with the bytes that begin at the places beside them.

        Raises:
            CheckpointError: the file ends early.
        """
        for target, start in pieces:
            done = 0
            while done < len(target):  # one preadv call gives at most 2 GiB
                count = os.preadv(self._descriptor, [target[done:]], start + done)
                if count == 0:
                    raise CheckpointError(
                        f"{self._path}: ends at byte {start + done}, inside a tensor; "
                        "the file is truncated, fetch it again"
                    )
                done += count

    def write(self, content: bytes | memoryview, start: int) -> None:
        """Put bytes over those that begin at a place."""
        done = 0
        while done < len(content):
            done += os.pwrite(self._descriptor, content[done:], start + done)
