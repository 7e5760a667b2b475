"""A command as a whole process: seconds, peak memory, bytes written.

Run as a script this file is the launcher, a small process between the benchmark and the command:
Linux lets the peak memory of a child start at that of its parent, and the benchmark itself holds
arrays.

What each number is, and how far it can be trusted:

- `seconds` from start to exit; `seconds_on_disk` to the end of the `sync` that follows. A `sync`
  goes before each start, so that what others wrote is not counted.
- `cpu_seconds` of all cores, which other programs on the machine hardly change.
- `peak_bytes` is `ru_maxrss` of the ended child: all resident pages, mapped files included.
  `peak_private_bytes` leaves those out; it is sampled, and may miss a short peak.
- `written_bytes` is `wchar` of /proc/PID/io, read between the child's exit and its burial: bytes
  handed to write, pwrite and copy_file_range. Its neighbor `write_bytes` (and `ru_oublock`, the
  same counter) counts pages that became dirty, whole folios of up to megabytes for one row: on
  ext4 it said 67 MB where the disk wrote 0.5 MB. What is written through a mapping is in neither
  dependably; none of the commands compared here does that.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

SAMPLE_SECONDS = 0.01


@dataclass(frozen=True)
class Measured:
    """One run of a command; the module says what the numbers mean."""

    seconds: float
    seconds_on_disk: float
    cpu_seconds: float
    peak_bytes: int
    peak_private_bytes: int
    written_bytes: int


class CommandError(Exception):
    """A command that ended badly; `line` is the last one that it wrote to stderr."""

    def __init__(self, code: int, line: str) -> None:
        super().__init__(f"exit code {code}: {line}")
        self.code = code
        self.line = line


def measure(command: Sequence[object]) -> Measured:
    """Run a command in a process of its own.

    Raises:
        CommandError: it did not end with exit code 0.
    """
    launched = subprocess.run(
        [sys.executable, "-IS", __file__, *map(str, command)],
        capture_output=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
    )
    if launched.returncode:
        lines = launched.stderr.decode(errors="replace").strip().splitlines()
        raise CommandError(launched.returncode, lines[-1] if lines else "no message")
    return Measured(**json.loads(launched.stdout))


def _launch(command: list[str]) -> int:
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    os.sync()
    start = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=quiet)
    peak_private = [0]
    ended = threading.Event()
    sampler = threading.Thread(target=_sample, args=(pid, peak_private, ended))
    sampler.start()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    seconds = time.perf_counter() - start
    ended.set()
    sampler.join()
    written = _field(f"/proc/{pid}/io", "wchar:")
    _, status, usage = os.wait4(pid, 0)
    os.sync()
    on_disk = time.perf_counter() - start
    measured = {
        "seconds": seconds,
        "seconds_on_disk": on_disk,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
        "peak_private_bytes": peak_private[0],
        "written_bytes": written,
    }
    print(json.dumps(measured))
    return os.waitstatus_to_exitcode(status)


def _sample(pid: int, peak: list[int], ended: threading.Event) -> None:
    while not ended.wait(SAMPLE_SECONDS):
        with suppress(OSError):
            peak[0] = max(peak[0], _field(f"/proc/{pid}/status", "RssAnon:") * 1024)


def _field(path: str, name: str) -> int:
    """A number of a file in /proc; 0 when it is not there, as for a process that has ended."""
    with open(path) as file:  # noqa: PTH123 (the launcher imports as little as it can)
        lines = [line.split() for line in file]
    return next((int(line[1]) for line in lines if line[0] == name), 0)


if __name__ == "__main__":
    code = _launch(sys.argv[1:])
    sys.exit(code if code >= 0 else 128 - code)
