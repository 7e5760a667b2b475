"""Progress of cells that run elsewhere: workers tell where they are, one view shows all of them."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from modelsurgery.files.progress import Advance, Progress

SECONDS_BETWEEN = 1.0


@dataclass
class Stage:
    """Where a worker is."""

    cell: str  # label of the cell
    name: str  # of the innermost stage
    total: int  # steps of the stage; 0 where that is not known
    steps: int = 0  # those done
    tokens: int = 0  # read or written for them


class Telling:
    """The `Progress` of a worker: tells of each stage that is opened, and of its steps at times."""

    def __init__(self, cell: str, tell: Callable[[Stage], None]) -> None:
        """Tell of a cell, by its label."""
        self._cell, self._tell = cell, tell
        self._told = 0.0

    @contextmanager
    def __call__(self, stage: str, total: int) -> Iterator[Advance]:
        """Open a stage for as long as the block lasts."""
        here = Stage(self._cell, stage, total)
        self._tell(here)

        def advance(steps: int, *, tokens: int = 0) -> None:
            here.steps += steps
            here.tokens += tokens
            now = time.monotonic()
            if now - self._told >= SECONDS_BETWEEN:
                self._told = now
                self._tell(here)

        yield advance


@dataclass
class Shown:
    """Shows what workers tell: for each cell one stage, the last that it told of."""

    progress: Progress  # what shows it
    _open: dict[str, tuple[Stage, ExitStack, Advance]] = field(default_factory=dict, repr=False)

    def show(self, stage: Stage) -> None:
        """Show where a cell is."""
        if stage.cell not in self._open or not _goes_on(self._open[stage.cell][0], stage):
            self.end(stage.cell)
            stack, begun = ExitStack(), Stage(stage.cell, stage.name, stage.total)
            shown = self.progress(f"{stage.cell}: {stage.name}", stage.total)
            self._open[stage.cell] = begun, stack, stack.enter_context(shown)
        before, stack, advance = self._open[stage.cell]
        if stage.steps > before.steps or stage.tokens > before.tokens:
            advance(stage.steps - before.steps, tokens=stage.tokens - before.tokens)
        self._open[stage.cell] = stage, stack, advance

    def end(self, cell: str) -> None:
        """Show nothing of a cell any more."""
        if cell in self._open:
            self._open.pop(cell)[1].close()

    def close(self) -> None:
        """Show nothing any more."""
        for cell in [*self._open]:
            self.end(cell)


def _goes_on(before: Stage, now: Stage) -> bool:
    is_same = (before.name, before.total) == (now.name, now.total)
    return is_same and now.steps >= before.steps and now.tokens >= before.tokens
