"""What stages took: a `Progress` that another one is told of, too."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from modelsurgery.files.progress import Advance, Progress


class StageClock:
    """Passes progress on, and adds up the seconds of the outermost stages by name.

    Attributes:
        seconds: so far.
    """

    def __init__(self, progress: Progress) -> None:
        """Begin with nothing."""
        self.seconds: dict[str, float] = {}
        self._progress, self._depth = progress, 0

    @contextmanager
    def __call__(self, stage: str, total: int) -> Iterator[Advance]:
        """Open a stage for as long as the block lasts."""
        started = time.monotonic()
        self._depth += 1
        try:
            with self._progress(stage, total) as advance:
                yield advance
        finally:
            self._depth -= 1
            if self._depth == 0:
                spent = time.monotonic() - started
                self.seconds[stage] = self.seconds.get(stage, 0.0) + spent
