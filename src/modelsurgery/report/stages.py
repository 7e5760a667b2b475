"""What work that goes on has told of itself: stages, how far they are, what they cost.

Both displays of progress (`live`) read these values; a thread draws while another one works.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from modelsurgery.files.progress import Advance

STATUS_FILE = Path("/proc/self/status")
RESIDENT = "VmRSS:"


@dataclass(eq=False)  # two stages may look alike; each is removed by what it is
class Stage:
    """A stage that is open.

    Attributes:
        name: what is done.
        total: steps of it; 0 where nobody knows.
        started: clock when it was opened, seconds.
        done: steps done.
        tokens: tokens read or written.
    """

    name: str
    total: int
    started: float
    done: int = 0
    tokens: int = 0

    def seconds_left(self, now: float) -> float | None:
        """Seconds left at the pace so far; None before the first step and without a total."""
        if not 0 < self.done <= self.total:
            return None
        return (now - self.started) / self.done * (self.total - self.done)

    def tokens_per_second(self, now: float) -> float | None:
        """Mean rate since the stage was opened; None where no tokens were told of."""
        seconds = now - self.started
        return self.tokens / seconds if self.tokens and seconds > 0 else None


@dataclass
class Stages:
    """All stages that are open, outermost first. Calling it opens one: it is a `Progress`.

    Attributes:
        started: clock when the work began, seconds.
        open: stages that are open.
        has_worked: whether a stage was opened at all.
    """

    started: float = field(default_factory=time.monotonic)
    open: list[Stage] = field(default_factory=list)
    has_worked: bool = False

    @contextmanager
    def __call__(self, stage: str, total: int) -> Iterator[Advance]:
        """Open a stage for as long as the block lasts."""
        told = Stage(stage, total, time.monotonic())

        def advance(steps: int, *, tokens: int = 0) -> None:
            told.done += steps
            told.tokens += tokens

        self.open.append(told)
        self.has_worked = True
        try:
            yield advance
        finally:
            self.open.remove(told)

    def shown(self) -> list[Stage]:
        """The open stages; one without steps where work goes on that has none."""
        return list(self.open) or [
            Stage("working" if self.has_worked else "starting", 0, self.started)
        ]


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM; None where the system does not tell."""
    try:
        lines = STATUS_FILE.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith(RESIDENT)]
    return int(kilobytes[0]) * 1024 if kilobytes else None


def gpu_bytes() -> int:
    """Memory of all GPUs that torch holds for this process; 0 before it uses one.

    Torch is asked only if something else has imported it: this is called in verbs that never do,
    and from a thread while the import is under way, when the module is there and still empty.
    """
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    is_initialized = getattr(cuda, "is_initialized", None)
    reserved = getattr(cuda, "memory_reserved", None)
    if cuda is None or is_initialized is None or reserved is None or not is_initialized():
        return 0
    return sum(reserved(device) for device in range(cuda.device_count()))
