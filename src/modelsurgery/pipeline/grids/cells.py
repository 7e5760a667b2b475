"""A cell of a grid, what a worker keeps from one cell to the next, and how a cell ended."""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from modelsurgery.errors import EvaluationError, SurgeryError
from modelsurgery.files.atomic import sha256_json
from modelsurgery.files.progress import Advance, Progress, silent
from modelsurgery.pipeline.recipe import Recipe

Made = TypeVar("Made")
NAME_DIGITS = 8
log = logging.getLogger(__name__)


def content_name(label: str, content: Any) -> str:
    """A label with a hash of what it stands for (JSON values), as the name of a file."""
    words = re.sub(r"[^\w.-]+", "-", label).strip("-.")
    return f"{words}-{sha256_json(content)[:NAME_DIGITS]}"


class Cell(ABC):
    """One piece of work of a grid; a frozen dataclass that can be pickled."""

    directory: Path  # exists, and is seen by every worker; results are files below it

    @property
    @abstractmethod
    def label(self) -> str:
        """What people call it."""

    @property
    @abstractmethod
    def content(self) -> Any:
        """All that its results depend on, as JSON values."""

    @property
    def name(self) -> str:
        """Its label with a hash of its content, for files: another cell has another name."""
        return content_name(self.label, self.content)

    @abstractmethod
    def perform(self, kept: "Kept") -> None:
        """Do the work, as far as its files are not there yet.

        Args:
            kept: what this worker has made for cells before; its `progress` is told of the work.

        Raises:
            SurgeryError: it cannot be done.
        """

    @abstractmethod
    def planned(self) -> Recipe:
        """A recipe that takes about as much memory (`planned_memory`)."""


@dataclass(frozen=True)
class Ended:
    """How a cell ended."""

    name: str  # of the cell
    error: SurgeryError | None = None  # why it failed; None if its files are there
    # Whether it failed because of the worker or the program, so that it may go well when it is
    # performed again.
    is_lost: bool = False


@dataclass
class Kept:
    """What a worker keeps from one cell to the next, such as a loaded model.

    There is one value a level. One that is made anew takes those of higher levels with it, which
    were made from the one before.
    """

    # Name of the machine, where workers of several share a directory; None for one.
    node: str | None = None
    listener: Progress = silent  # is told what is going on in the cell of now
    _held: dict[int, tuple[Any, Any, ExitStack]] = field(default_factory=dict, repr=False)

    def get(self, level: int, key: Any, make: Callable[[ExitStack], Made]) -> Made:
        """The value of a level, made unless the one that is there has an equal key.

        Args:
            level: 0 or more.
            key: what the value depends on.
            make: is given a stack for what is to be closed with the value. What it raises of
                `SurgeryError` is kept too.
        """
        if level in self._held and self._held[level][0] != key:
            self.drop(level)
        if level not in self._held:
            stack = ExitStack()
            try:
                value: Any = make(stack)
            except SurgeryError as error:
                value = error
            self._held[level] = key, value, stack
        value = self._held[level][1]
        if isinstance(value, SurgeryError):
            raise value
        found: Made = value
        return found

    def progress(self, stage: str, total: int) -> AbstractContextManager[Advance]:
        """Open a stage of the cell of now: a `Progress` for what outlasts a cell."""
        return self.listener(stage, total)

    def drop(self, level: int = 0) -> None:
        """Close and forget the values of a level and those above, the highest first."""
        for one in sorted((one for one in self._held if one >= level), reverse=True):
            self._held.pop(one)[2].close()


def perform(cell: Cell, kept: Kept, progress: Progress) -> Ended:
    """Perform a cell; a failure is how it ended, and stops nobody else."""
    kept.listener = progress
    try:
        cell.perform(kept)
    except SurgeryError as error:
        return Ended(cell.name, error)
    except Exception as error:  # a fault of the program must not cost what others measure
        log.warning("%s failed", cell.label, exc_info=True)
        told = " ".join(str(error).split())[:200]
        return Ended(cell.name, EvaluationError(f"{type(error).__name__}: {told}"), is_lost=True)
    return Ended(cell.name)
