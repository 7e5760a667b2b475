"""An edited weight file put together in an object store, of copied ranges and changed rows."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from modelsurgery.apply.parts import SMALLEST_PART_BYTES, FilePart, Piece
from modelsurgery.checkpoint.remote import RemoteModel
from modelsurgery.files.object_store import Folder, Range

# Objects that a part is joined in; deleted with their file's end.
SCRATCH = ".surgery-scratch"


class Interrupted(BaseException):
    """Another part of the file failed, or Ctrl-C was pressed; never leaves this module."""


@dataclass(frozen=True)
class Composer:
    """Makes edited files of the files of a model.

    Attributes:
        source: the model; its local directory holds the changed rows at their places.
        target: where the files are made.
    """

    source: RemoteModel
    target: Folder
    _ended: threading.Event = field(default_factory=threading.Event)

    def compose(
        self,
        name: str,
        parts: Sequence[FilePart],
        metadata: Mapping[str, str],
        done: Callable[[int], None],
    ) -> None:
        """Make a file; when that fails, objects below `SCRATCH` are left, and nothing else."""
        scratch: list[tuple[str, str | None]] = []
        makers = [partial(self._made, name, part, scratch) for part in parts]
        self.target.compose(name, makers, metadata, done=done, ended=self._ended.set)
        self.target.delete(scratch)

    def _made(
        self, name: str, part: FilePart, scratch: list[tuple[str, str | None]]
    ) -> bytes | Range:
        """A part: a range for the server to copy, or bytes to send."""
        if part.is_copy:
            return self._range(name, part.start, part.stop)
        if part.joined:
            return self._joined(name, part, scratch)
        return b"".join(self._bytes(name, piece) for piece in part.pieces)

    def _joined(self, name: str, part: FilePart, scratch: list[tuple[str, str | None]]) -> Range:
        """Have the server join the pieces, one at a time, behind 5 MiB that are cut off again."""
        joined = f"{SCRATCH}/{name}/{part.start}"
        first, *others = part.pieces
        begin = min(first.start, first.stop - SMALLEST_PART_BYTES)
        if first.changed or begin < 0:
            ahead, others = SMALLEST_PART_BYTES, [first, *others]
            so_far = self._range(name, 0, ahead)
        else:  # what is before an unchanged piece stands in the source
            ahead = first.start - begin
            so_far = self._range(name, begin, first.stop)
        versions: list[tuple[str, str | None]] = []
        for piece in others:
            if self._ended.is_set():
                raise Interrupted
            following = (
                self._bytes(name, piece)
                if piece.changed
                else self._range(name, piece.start, piece.stop)
            )
            made = self.target.compose(joined, [so_far, following], connections=1)
            versions.append((joined, made.version))
            so_far = Range(self.target, joined, 0, made.size, made.etag)
        scratch.append(versions.pop())
        if scratch[-1][1] is not None:  # each is as long as the block
            self.target.delete(versions)
        return Range(self.target, joined, ahead, so_far.stop, so_far.etag)

    def _range(self, name: str, start: int, stop: int) -> Range:
        return Range(self.source.folder, name, start, stop, self.source.objects[name].etag)

    def _bytes(self, name: str, piece: Piece) -> bytes:
        if not piece.changed:
            return self.source.read(name, piece.start, piece.stop)
        with (self.source.directory / name).open("rb") as file:
            file.seek(piece.start)
            return file.read(piece.size)
