"""Temporary files in memory: on a disk each flush, and each file that is written anew, waits."""

import atexit
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

MEMORY = Path("/dev/shm")
# A short name: Ray and others make sockets below it, whose paths have at most 107 characters.
PREFIX = "surgery-"
NEW_SECONDS = 60
ROOM_BYTES = 6 << 30  # several times of what all tests write; containers often have 64 MiB


def write_to_memory() -> None:
    """Put all temporary files into memory if there is room, until this process ends.

    Processes that it starts write there too. `TMPDIR` decides where it is set.
    """
    if "TMPDIR" in os.environ or not MEMORY.is_dir():
        return
    if os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:  # some tests make programs
        return
    _remove_leftovers()
    if shutil.disk_usage(MEMORY).free < ROOM_BYTES or available_bytes() < ROOM_BYTES:
        return
    directory = tempfile.TemporaryDirectory(dir=MEMORY, prefix=PREFIX)
    fcntl.flock(os.open(directory.name, os.O_RDONLY), fcntl.LOCK_EX)  # until this process ends
    Path(directory.name).chmod(0o755)  # a database server runs as another user
    atexit.register(directory.cleanup)
    os.environ["TMPDIR"] = directory.name
    tempfile.tempdir = None  # is found anew


def _remove_leftovers() -> None:
    """Remove what tests that were killed left: nobody has it locked, and it is not just made."""
    for directory in MEMORY.glob(f"{PREFIX}*"):
        try:
            descriptor = os.open(directory, os.O_RDONLY)
        except OSError:
            continue
        if time.time() - os.fstat(descriptor).st_mtime < NEW_SECONDS:
            os.close(descriptor)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)


def available_bytes() -> int:
    """Memory that can be had without swapping; 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    (line,) = (line for line in lines if line.startswith("MemAvailable:"))
    return 1024 * int(line.split()[1])
