"""What a piece of work takes: time, and the most memory of the process meanwhile."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

PROCESS = Path("/proc/self")
RESET_PEAK = "5"  # to clear_refs: proc(5)


@dataclass
class Taken:
    """What was taken; complete when its `with` block ends."""

    seconds: float = 0.0  # of wall-clock time
    # Most memory that was resident (on a GPU: allocated there); None where the system does not
    # tell.
    peak_bytes: int | None = None


@contextmanager
def taking() -> Iterator[Taken]:
    """Measure what happens in a `with` block."""
    taken, started = Taken(), time.monotonic()
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):
            (PROCESS / "clear_refs").write_text(RESET_PEAK)
    try:
        yield taken
    finally:
        taken.seconds = time.monotonic() - started
        taken.peak_bytes = torch.cuda.max_memory_allocated() if on_gpu else _resident_peak()


def _resident_peak() -> int | None:
    with suppress(OSError):
        for line in (PROCESS / "status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None
