"""A lock that other machines see, for directories on network file systems.

There a lock of a directory is known to one machine only: NFS, SMB and Lustre pass locks of files on
to the server, not those of directories (Linux 6; fs/nfs/dir.c has no `flock`). `flock` of a file
is a byte-range lock on the server since Linux 2.6.12, provided the file is open for writing. So a
file in the directory is locked as well. The server lets go of it when the process ends, and some
time after its machine has died.
"""

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from modelsurgery.errors import StorageError

LOCK_FILE = ".surgery-lock"
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "lustre"}
MOUNTS = Path("/proc/self/mountinfo")
ESCAPED = re.compile(r"\\([0-7]{3})")  # spaces, tabs, line breaks and backslashes there


def is_on_network(directory: Path) -> bool:
    """Whether a directory's locks stay unknown to other machines that have it mounted."""
    return file_system_of(directory) in NETWORK_FILE_SYSTEMS


def file_system_of(directory: Path) -> str:
    """Type of the file system that a directory is on, as the kernel calls it; empty if unknown."""
    try:
        real = str(directory.resolve())
        lines = os.fsdecode(MOUNTS.read_bytes()).strip().split("\n")
    except OSError:
        return ""
    best, kind = -1, ""
    for line in lines:
        fields, _, described = line.partition(" - ")
        place = ESCAPED.sub(lambda code: chr(int(code[1], 8)), fields.split(" ")[4])
        inside = real == place or real.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= best:  # a later mount hides an earlier one
            best, kind = len(place), described.split(" ")[0]
    return kind


@contextmanager
def network_locked(directory: Path, *, shared: bool) -> Iterator[None]:
    """Hold a lock on a file in a directory; the file is removed afterwards.

    Raises:
        StorageError: another process, perhaps on another machine, holds it.
    """
    path = directory / LOCK_FILE
    try:
        descriptor = _opened_and_locked(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    except OSError as error:
        denied = isinstance(error, PermissionError)
        if shared and (denied or error.errno == errno.EROFS):
            yield  # who may not write to the directory can read it all the same
            return
        if denied:
            raise StorageError(
                f"cannot lock {path}: permission denied; get the right to write to the directory, "
                "or delete that file if no surgery is running"
            ) from error
        raise StorageError(
            f"{directory}: its file system cannot lock it ({error.strerror}); mount it with locks, "
            "or copy the model to a local disk"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # the last of several readers removes it
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_there(path, descriptor):
                path.unlink()
        os.close(descriptor)


def _opened_and_locked(path: Path, kind: int) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            _lock(path, descriptor, kind)
            # Who held it before may have removed the file since it was opened here.
            if _is_there(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(path: Path, descriptor: int, kind: int) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):  # SMB says the latter
            raise
        raise StorageError(
            f"{path.parent} is in use by another surgery, perhaps on another machine; wait for "
            "it to end, then try again"
        ) from error


def _is_there(path: Path, descriptor: int) -> bool:
    """Whether an open file still has its name.

    It is opened for that: NFS asks the server then, while `stat` may answer from memory.
    """
    try:
        now = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return os.path.samestat(os.fstat(descriptor), os.fstat(now))
    finally:
        os.close(now)
