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
    """Makes the edited file of a name."""

    source: RemoteModel  # the model; its local directory holds the changed rows at their places
    target: Folder  # where the file is made
    name: str  # of the file, here and there
    _scratch: list[tuple[str, str | None]] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def compose(
        self, parts: Sequence[FilePart], metadata: Mapping[str, str], done: Callable[[], None]
    ) -> None:
        """Make the file; when that fails, objects below `SCRATCH` are left, and nothing else."""
        makers = [partial(self._made, part) for part in parts]
        self.target.compose(self.name, makers, metadata, done=done, ended=self._ended.set)
        self.target.delete(self._scratch)

    def _made(self, part: FilePart) -> bytes | Range:
        """A part: a range for the server to copy, or bytes to send."""
        if part.is_copy:
            return self._range(part.start, part.stop)
        if part.joined:
            return self._joined(part)
        return b"".join(map(self._bytes, part.pieces))

    def _joined(self, part: FilePart) -> Range:
        """Have the server join the pieces, one at a time, behind 5 MiB that are cut off again."""
        joined = f"{SCRATCH}/{self.name}/{part.start}"
        first, *others = part.pieces
        begin = min(first.start, first.stop - SMALLEST_PART_BYTES)
        if first.changed or begin < 0:
            ahead, others = SMALLEST_PART_BYTES, [first, *others]
            so_far = self._range(0, ahead)
        else:  # what is before an unchanged piece stands in the source
            ahead = first.start - begin
            so_far = self._range(begin, first.stop)
        versions: list[tuple[str, str | None]] = []
        for piece in others:
            if self._ended.is_set():
                raise Interrupted
            is_sent = piece.changed
            following = self._bytes(piece) if is_sent else self._range(piece.start, piece.stop)
            made = self.target.compose(joined, [so_far, following], connections=1)
            versions.append((joined, made.version))
            so_far = Range(self.target, joined, 0, made.size, made.etag)
        self._scratch.append(versions.pop())
        if self._scratch[-1][1] is not None:  # each is as long as the block
            self.target.delete(versions)
        return Range(self.target, joined, ahead, so_far.stop, so_far.etag)

    def _range(self, start: int, stop: int) -> Range:
        etag = self.source.objects[self.name].etag
        return Range(self.source.folder, self.name, start, stop, etag)

    def _bytes(self, piece: Piece) -> bytes:
        if not piece.changed:
            return self.source.read(self.name, piece.start, piece.stop)
        with (self.source.directory / self.name).open("rb") as file:
            file.seek(piece.start)
            return file.read(piece.size)
