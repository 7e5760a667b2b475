"""A model directory in an object store: headers in a local directory, rows by ranged reads.

What opens a checkpoint reads configuration, index and headers. Those are fetched into a directory
in which each weight file has its true length and its header, and is otherwise a hole, so that all
that reads headers works on it as on any model. Rows are read where they are; or, for a surgery,
fetched to their places in the holes.
"""

import json
import os
import shutil
import struct
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from modelsurgery.checkpoint.header import MAX_HEADER_BYTES, MAX_JSON_BYTES
from modelsurgery.checkpoint.local_file import Buffer, LocalFile
from modelsurgery.checkpoint.place import GGUF_SUFFIX, is_plain_name
from modelsurgery.errors import (
    CheckpointError,
    ModelNotFoundError,
    SurgeryError,
    UnsupportedModelError,
)
from modelsurgery.files.atomic import storage_errors
from modelsurgery.files.object_store import Folder, StoredObject
from modelsurgery.files.parallel import in_parallel

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# transformers puts an adapter that lies there on the model by itself, if PEFT is installed.
ADAPTER_FILE = "adapter_config.json"
# What is read of a model but its weights; surgery.json is the manifest of an edited one.
READ_FILES = ("config.json", INDEX_FILE, ADAPTER_FILE, "surgery.json")
FIRST_BYTES = 64 << 10
LARGEST_READ_BYTES = 8 << 20
# Nearer ranges are read as one: a request costs more than so many bytes.
NEAR_BYTES = 16 << 10


@dataclass(frozen=True)
class RemoteModel:
    """A model in an object store: the objects of a folder, by name.

    Headers are in `directory`, a local one, which is removed when nothing refers to the model.
    """

    folder: Folder
    objects: Mapping[str, StoredObject]
    directory: Path

    @classmethod
    def fetched(cls, url: Path | str) -> "RemoteModel":
        """List a folder and fetch configuration, index and headers.

        Raises:
            ModelNotFoundError: nothing is there.
            UnsupportedModelError: a GGUF file.
            StorageError: the server cannot be reached or refuses.
        """
        if str(url).lower().endswith(GGUF_SUFFIX):
            raise UnsupportedModelError(
                f"{url}: GGUF files are edited on a local disk only; download it, or give a folder "
                "with config.json and safetensors weights"
            )
        folder = Folder(url)
        objects = folder.objects()
        if not objects:
            raise ModelNotFoundError(f"{folder.url}: no model there; the folder is empty")
        with storage_errors(Path(tempfile.gettempdir())):
            model = cls(folder, objects, Path(tempfile.mkdtemp(prefix="surgery-")))
            weakref.finalize(model, shutil.rmtree, model.directory, ignore_errors=True)
            in_parallel(model.fetch_small, [name for name in READ_FILES if name in objects])
            in_parallel(model._fetch_header, sorted(model._weight_files()))
        return model

    @contextmanager
    def named(self) -> Iterator[None]:
        """Have errors name the URL, not the local directory."""
        try:
            yield
        except SurgeryError as error:
            text = str(error).replace(str(self.directory), self.folder.url)
            raise type(error)(text) from error

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Bytes `start:stop` of an object.

        Raises:
            CheckpointError: it ends early.
        """
        content = self.folder.read(name, start, stop, self.objects[name].etag)
        if len(content) != stop - start:
            raise CheckpointError(
                f"{self.folder.url}/{name}: ends at byte {start + len(content)}, inside a tensor; "
                "the file is truncated, upload it again"
            )
        return content

    def fetch(self, name: str, ranges: Iterable[tuple[int, int]]) -> None:
        """Bring ranges of a weight file to their places in the local directory."""
        with closing(LocalFile(self.directory / name, os.O_WRONLY | os.O_NOFOLLOW)) as file:

            def bring(piece: tuple[int, int]) -> None:
                file.write(self.read(name, *piece), piece[0])

            with storage_errors(self.directory.parent):
                in_parallel(bring, [piece for one in ranges for piece in _cut(*one)])

    def fetch_small(self, name: str) -> None:
        """Bring a JSON file to its place in the local directory.

        Raises:
            CheckpointError: it is too large to be what it should be.
        """
        size = self.objects[name].size
        if size > MAX_JSON_BYTES:
            raise CheckpointError(
                f"{self.folder.url}/{name}: over {MAX_JSON_BYTES} bytes; expected a small JSON file"
            )
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.read(name, 0, size))

    def _weight_files(self) -> set[str]:
        """Names of weight files that exist; whether they fit together is checked by who opens."""
        if SINGLE_FILE in self.objects:
            return {SINGLE_FILE}
        try:
            index = json.loads((self.directory / INDEX_FILE).read_bytes())
            named = {name for name in index["weight_map"].values() if isinstance(name, str)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return set()
        return {name for name in named if is_plain_name(name) and name in self.objects}

    def _fetch_header(self, name: str) -> None:
        size = self.objects[name].size
        begin = self.read(name, 0, min(size, FIRST_BYTES))
        if len(begin) >= 8:
            (length,) = struct.unpack("<Q", begin[:8])
            if len(begin) < 8 + length <= min(size, 8 + MAX_HEADER_BYTES):
                begin += self.read(name, len(begin), 8 + length)
        with (self.directory / name).open("wb") as file:
            file.write(begin)
            file.truncate(size)


class RemoteFile:
    """A weight file in an object store, used as a `LocalFile` is; it is never written to."""

    def __init__(self, model: RemoteModel, name: str) -> None:
        """Nothing is asked of the server yet."""
        self._model, self._name = model, name

    def read_into(self, pieces: Iterable[Buffer]) -> None:
        """Fill buffers with the bytes that begin at the places beside them."""

        def fill(group: list[Buffer]) -> None:
            first, (last, place) = group[0][1], group[-1]
            content = memoryview(self._model.read(self._name, first, place + len(last)))
            for target, start in group:
                target[:] = content[start - first : start - first + len(target)]

        in_parallel(fill, list(_grouped(pieces)))

    def write(self, content: bytes | memoryview, start: int) -> None:
        """Not done: objects are replaced, not written to."""
        raise AssertionError(f"{self._name} is in an object store")

    def sync(self) -> None:
        """Nothing was written."""

    def close(self) -> None:
        """Nothing is open."""


def _grouped(pieces: Iterable[Buffer]) -> Iterator[list[Buffer]]:
    """Pieces that one request reads, in the order of their places; long ones are cut."""
    group: list[Buffer] = []
    stop = 0
    for target, begin in sorted(pieces, key=lambda piece: piece[1]):
        for start, end in _cut(begin, begin + len(target)):
            far = start - stop > NEAR_BYTES or (group and end - group[0][1] > LARGEST_READ_BYTES)
            if group and far:
                yield group
                group = []
            group.append((target[start - begin : end - begin], start))
            stop = end
    if group:
        yield group


def _cut(start: int, stop: int) -> Iterator[tuple[int, int]]:
    for first in range(start, stop, LARGEST_READ_BYTES):
        yield first, min(stop, first + LARGEST_READ_BYTES)
