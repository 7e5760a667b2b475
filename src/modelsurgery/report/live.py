"""Progress on stderr: bars with an ETA on a terminal, a plain line every few seconds elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from modelsurgery.progress import Advance, Progress

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def live_progress(console: Console) -> Iterator[Progress]:
    """Show stages on a console for as long as the block lasts."""
    if not console.is_terminal:
        yield _plain_lines(console)
        return
    bars = Bars(
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bars:

        @contextmanager
        def show(stage: str, total: int) -> Iterator[Advance]:
            task = bars.add_task(stage, total=total)
            yield lambda steps: bars.advance(task, steps)
            bars.remove_task(task)

        yield show


def _plain_lines(console: Console) -> Progress:
    @contextmanager
    def show(stage: str, total: int) -> Iterator[Advance]:
        start = last = time.monotonic()
        done = 0

        def advance(steps: int) -> None:
            nonlocal done, last
            done += steps
            now = time.monotonic()
            if now - last >= SECONDS_BETWEEN_LINES:
                last = now
                left = (now - start) / max(done, 1) * (total - done)
                console.print(f"{stage}: {done} of {total}, {left:.0f} s left", highlight=False)

        yield advance

    return show
