"""Cells of a grid that are killed once, are refused or break, in whoever's hands they are."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from modelsurgery.errors import UnsupportedModelError
from modelsurgery.files.progress import Progress
from modelsurgery.pipeline.grids import Cell, Ended, Executor, Kept
from modelsurgery.pipeline.recipe import Recipe

How = Literal["is killed once", "is always killed", "is refused", "breaks"]


@dataclass(frozen=True)
class ActingCell(Cell):
    """A cell that does something else than its work, or is killed after its first row."""

    cell: Cell
    directory: Path
    how: How

    @property
    def label(self) -> str:
        return self.cell.label

    @property
    def content(self) -> Any:
        return self.cell.content

    def planned(self) -> Recipe:
        return self.cell.planned()

    def perform(self, kept: Kept) -> None:
        if self.how == "is refused":
            raise UnsupportedModelError("this cell was refused")
        if self.how == "breaks":
            with (self.directory / "tries").open("a") as tries:
                tries.write(".")
            raise ZeroDivisionError("a fault of the program")
        if self.how == "is always killed":
            os.kill(os.getpid(), signal.SIGKILL)
        killed = self.directory / "killed"
        if not killed.exists():
            killed.write_text(str(os.getpid()))
            threading.Thread(target=kill_after_first_row, args=(self.directory,)).start()
        self.cell.perform(kept)


def kill_after_first_row(directory: Path) -> None:
    """Kill this process once it has written a row; others may have written theirs before."""
    before = set(directory.glob("rows/*.json"))
    while set(directory.glob("rows/*.json")) == before:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Acting:
    """An executor some of whose cells act; which, by a word of their labels."""

    executor: Executor
    acting: dict[str, How]

    def run(self, cells: Sequence[Cell], kept: Kept, progress: Progress) -> Iterator[Ended]:
        yield from self.executor.run([self._acting(cell) for cell in cells], kept, progress)

    def _acting(self, cell: Cell) -> Cell:
        for word, how in self.acting.items():
            if word in cell.label:
                return ActingCell(cell, cell.directory, how)
        return cell
