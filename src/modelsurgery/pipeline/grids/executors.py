"""Who performs the cells of a grid: this process, or several processes of this machine."""

import multiprocessing
import signal
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from modelsurgery.errors import EvaluationError
from modelsurgery.files.progress import Progress
from modelsurgery.pipeline.grids.cells import Cell, Ended, Kept, perform
from modelsurgery.pipeline.grids.telling import Shown, Stage, Telling

RETRIES = 3  # of a cell whose worker was lost
LOST = EvaluationError(
    f"its process was killed {RETRIES + 1} times; check the memory of the machine, or use fewer "
    "--workers"
)
# Imported once, by the process that all workers are forked from.
PRELOADED = ["modelsurgery.pipeline.rivals", "modelsurgery.pipeline.running"]


class Executor(Protocol):
    """Performs cells."""

    def run(self, cells: Sequence[Cell], kept: Kept, progress: Progress) -> Iterator[Ended]:
        """Perform cells; yields how each ended, in any order.

        Args:
            cells: in the order in which they are begun.
            kept: what this process has made already.
            progress: is told what is going on.

        Raises:
            SurgeryError: there is nobody to perform them.
        """
        ...


@dataclass(frozen=True)
class InProcess:
    """One cell after the other, in this process."""

    def run(self, cells: Sequence[Cell], kept: Kept, progress: Progress) -> Iterator[Ended]:
        """Perform cells in order."""
        for cell in cells:
            yield perform(cell, kept, progress)


@dataclass(frozen=True)
class Processes:
    """Several processes of this machine, which share its cores.

    A cell whose process was killed is begun again in a new one.
    """

    workers: int  # how many

    def run(self, cells: Sequence[Cell], kept: Kept, progress: Progress) -> Iterator[Ended]:
        """Perform cells, as many at a time as there are workers."""
        waiting, losses = deque(cells), Counter[str]()
        free = [self._start() for _ in cells[: self.workers]]
        busy: dict[Any, tuple[_Worker, Cell]] = {}
        shown = Shown(progress)
        try:
            while waiting or busy:
                while waiting and free:
                    worker, cell = free.pop(), waiting.popleft()
                    busy[worker.connection] = worker, cell
                    worker.begin(cell)
                for connection in wait([*busy]):
                    worker, cell = busy[connection]
                    told = worker.told()
                    if isinstance(told, Stage):
                        shown.show(told)
                        continue
                    del busy[connection]
                    shown.end(cell.label)
                    free.append(worker if told else self._start())
                    losses[cell.name] += told is None
                    if told is None and losses[cell.name] <= RETRIES:
                        waiting.appendleft(cell)
                    else:
                        yield told or Ended(cell.name, LOST, is_lost=True)
            for worker in free:
                worker.connection.close()  # it ends by itself, in good order
        finally:
            shown.close()
            for worker, _ in busy.values():
                worker.process.terminate()
            for worker in [*free, *(one for one, _ in busy.values())]:
                worker.process.join()

    def _start(self) -> "_Worker":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        connection, other = context.Pipe()
        process = context.Process(target=_serve, args=(other, self.workers), daemon=True)
        process.start()
        other.close()  # so that the end of the process is the end of what can be read
        return _Worker(process, connection)


@dataclass(frozen=True)
class _Worker:
    """A process that performs the cells that it is sent."""

    process: BaseProcess
    connection: Any

    def begin(self, cell: Cell) -> None:
        """Send it a cell; that nobody is there shows when it is asked what it told."""
        with suppress(OSError):
            self.connection.send(cell)

    def told(self) -> Stage | Ended | None:
        """What it says next; None if it was killed."""
        try:
            told: Stage | Ended = self.connection.recv()
        except (EOFError, OSError):
            self.connection.close()
            return None
        return told


def _serve(connection: Connection, workers: int) -> None:
    """Perform cells until there is nobody any more who sends them."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    kept = Kept()
    with suppress(EOFError, OSError):
        while True:
            cell: Cell = connection.recv()
            connection.send(perform(cell, kept, Telling(cell.label, connection.send)))
    kept.drop()


def perform_all(
    executor: Executor | None, cells: Sequence[Cell], kept: Kept, progress: Progress
) -> list[Ended]:
    """Perform cells, in this process if nobody else does; how each ended, in their order."""
    ended: dict[str, Ended] = {}
    if not cells:  # nobody need be asked
        return []
    with progress("cells", len(cells)) as advance:
        for one in (executor or InProcess()).run(cells, kept, progress):
            ended[one.name] = one
            advance(1)
    return [ended[cell.name] for cell in cells]
