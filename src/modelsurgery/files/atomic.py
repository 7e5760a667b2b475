"""Writing so that nothing is ever half-written, and hashing.

A file appears whole or not at all, and so does a directory: everything is staged beside its
destination, flushed to the disk, and renamed.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from modelsurgery.errors import OutputExistsError, StorageError
from modelsurgery.files.network_locks import is_on_network, network_locked

WRITE_BLOCK_BYTES = 1 << 17  # larger ones are slower on ext4
MOST_LEVELS = 20
FICLONE = 0x40049409  # ioctl_ficlone(2)
# What the system says when a file cannot be linked to or cloned there, though it can be copied.
NO_LINK = {
    errno.EXDEV,
    errno.EPERM,
    errno.EMLINK,
    errno.EOPNOTSUPP,
    errno.ENOTTY,
    errno.EINVAL,
    errno.ENOSYS,
}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says of a full or read-only disk into a StorageError."""
    try:
        yield
    except OSError as error:
        reason = {
            errno.ENOSPC: "no space left on the disk; free some or choose another disk",
            errno.EDQUOT: "the disk quota is used up; free some or choose another disk",
            errno.EROFS: "the file system is read-only; choose another place",
            errno.EACCES: "permission denied; choose another place or change its permissions",
            errno.ENOTDIR: "a part of that path is a file; choose another place",
            errno.EEXIST: "a part of that path is a file; choose another place",
            errno.EISDIR: "it is a directory; choose another name",
            errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
            errno.EIO: "the disk reports an input/output error",
        }.get(error.errno or 0)
        if reason is None:
            raise
        raise StorageError(f"cannot write {path}: {reason}") from error


@contextmanager
def reading_errors() -> Iterator[None]:
    """Turn a missing permission to read something into a StorageError."""
    try:
        yield
    except PermissionError as error:
        raise _unreadable(error.filename) from error


def refuse_unreadable(path: Path) -> None:
    """Raise StorageError when something is at `path` that may not be read."""
    if path.exists() and not os.access(path, os.R_OK, effective_ids=True):
        raise _unreadable(path)


def _unreadable(path: object) -> StorageError:
    return StorageError(
        f"{path}: no permission to read it; change its permissions, or run as a user who has it"
    )


def sync(path: Path) -> None:
    """Flush a file's bytes, or a directory's entries: then a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, replacing what was there.

    Raises:
        StorageError: the disk is full or the place cannot be written.
    """
    with staged_bytes(path, content) as put:
        put()


@contextmanager
def staged_bytes(path: Path, content: bytes) -> Iterator[Callable[[], None]]:
    """Write a file beside its place; the function given puts it there, and needs no more space.

    Raises:
        StorageError: the disk is full or the place cannot be written.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    staged = Path(name)

    def put() -> None:
        with storage_errors(path):
            staged.replace(path)
            sync(path.parent)

    try:
        with storage_errors(path):
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            staged.chmod(0o644)
        yield put
    finally:
        staged.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Remove what a process that was killed while it wrote left beside `path`."""
    for staged in path.parent.glob(f".{path.name}.{'?' * 8}"):  # eight letters of mkstemp
        staged.unlink()


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON whole or not at all; refuses NaN, which is not JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def writable_json(content: dict[str, Any]) -> dict[str, Any]:
    """The same JSON object, if `write_json` can write all that a JSON parser may have read.

    Raises:
        ValueError: it holds NaN or half a surrogate pair, or is nested too deeply.
    """
    if _levels(content, MOST_LEVELS + 1) > MOST_LEVELS:
        raise ValueError(f"it is nested over {MOST_LEVELS} levels deep")
    json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    return content


def _levels(value: Any, most: int) -> int:
    """How deeply lists and objects are nested; counts no further than `most`."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max((_levels(one, most - 1) for one in inner), default=0) if most else 0


def refuse_existing(path: Path, *, for_directory: bool = False) -> None:
    """Raise OutputExistsError when something is at `path`; a directory may be there while empty."""
    if for_directory and path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise OutputExistsError(f"{path} already exists; choose another --out or delete it")


@contextmanager
def staged_directory(destination: Path) -> Iterator[Path]:
    """Give a directory to fill that becomes `destination` when the block ends well.

    When the block raises, Ctrl-C included, the staged directory is removed and nothing is at
    `destination`. Every file in it is flushed before the rename. What a killed process staged for
    the same destination is removed first.

    Raises:
        OutputExistsError: `destination` exists and is not an empty directory.
        StorageError: the disk is full or the place cannot be written.
    """
    refuse_existing(destination, for_directory=True)

    def put(staged: Path) -> None:
        refuse_existing(destination, for_directory=True)  # of another process, meanwhile
        staged.chmod(0o755)
        if destination.is_dir():
            destination.rmdir()
        staged.rename(destination)

    with staged_for(destination, put) as staged:
        yield staged


@contextmanager
def staged_for(destination: Path, put: Callable[[Path], None]) -> Iterator[Path]:
    """Give a directory to fill beside `destination`; `put` moves what is in it, once flushed.

    When the block raises, Ctrl-C included, the staged directory is removed. What a killed process
    staged for the same destination is removed first.

    Raises:
        StorageError: the disk is full or the place cannot be written.
    """
    with storage_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{destination.name}.staged-"
        _remove_abandoned(destination.parent, prefix)
        staged = Path(tempfile.mkdtemp(prefix=prefix, dir=destination.parent))
        try:
            with locked(staged):
                yield staged
            for path in sorted(staged.rglob("*")):
                sync(path)
            put(staged)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        sync(destination.parent)


def copy_file(source: Path, destination: Path) -> None:
    """Copy a file's bytes; its blocks are never shared with the source.

    The kernel copies, unless it would share or cannot: on ext4 that is several times as fast as
    writing in large blocks.

    Raises:
        StorageError: the file changed its length meanwhile.
    """
    with source.open("rb", buffering=0) as old, destination.open("xb", buffering=0) as new:
        size = os.fstat(old.fileno()).st_size
        copies_in_kernel = True
        if _shares_blocks(old.fileno(), new.fileno()):
            os.ftruncate(new.fileno(), 0)
            copies_in_kernel = False
        copied = 0
        while copied < size:
            try:
                if copies_in_kernel:
                    count = os.copy_file_range(old.fileno(), new.fileno(), size - copied, copied)
                else:
                    block = os.pread(old.fileno(), WRITE_BLOCK_BYTES, copied)
                    count = new.write(block) or 0
            except OSError as error:
                if not copies_in_kernel or error.errno not in NO_LINK:
                    raise
                copies_in_kernel = False  # between two kinds of file systems
                continue
            if count == 0:
                raise StorageError(f"{source}: was truncated while it was copied")
            copied += count


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove staged directories that no living process has locked."""
    for path in parent.iterdir():
        if path.name.startswith(prefix) and path.is_dir() and not path.is_symlink():
            with suppress(StorageError), locked(path):
                shutil.rmtree(path)


def sha256_bytes(content: bytes | memoryview) -> str:
    """Hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read block by block."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(content: Any) -> str:
    """SHA-256 of a JSON value in one canonical spelling."""
    return sha256_bytes(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


@contextmanager
def locked(directory: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock on a directory, so that no two surgeries work on it at once.

    The operating system lets go of it when the process ends, however it ends. Nothing is written
    into the directory, unless it is on a network file system. Shared locks, for reading, may be
    held at the same time.

    Raises:
        StorageError: another process holds it, or the file system has no locks.
    """
    with reading_errors():
        descriptor = os.open(directory, os.O_RDONLY)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(
                f"{directory} is in use by another surgery; wait for it to end, then try again"
            ) from error
        except OSError as error:
            raise StorageError(
                f"{directory}: its file system cannot lock it ({error.strerror}); "
                "copy the model to a local disk"
            ) from error
        with (
            network_locked(directory, shared=shared) if is_on_network(directory) else nullcontext()
        ):
            yield
    finally:
        os.close(descriptor)


def link_file(source: Path, destination: Path) -> bool:
    """Give a file a second name on the same disk; false where the file system cannot."""
    return _is_done(lambda: destination.hardlink_to(source.resolve()))


def clone_file(source: Path, destination: Path) -> bool:
    """Copy a file by sharing its blocks (btrfs, XFS, …); false where the file system cannot."""
    with source.open("rb") as old, destination.open("xb") as new:
        shared = _shares_blocks(old.fileno(), new.fileno())
    if not shared:
        destination.unlink()
    return shared


def _shares_blocks(source: int, destination: int) -> bool:
    """Have an open, empty file share the blocks of another; false where the file system cannot."""
    return _is_done(lambda: fcntl.ioctl(destination, FICLONE, source))


def _is_done(link: Callable[[], object]) -> bool:
    """Link or clone; false where the file system cannot."""
    try:
        link()
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        return False
    return True
