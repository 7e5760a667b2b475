"""How long work tells what it is doing, without knowing who listens.

Library functions take a `Progress` and stay silent by default; the command line passes one that
draws on a terminal.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]


class Progress(Protocol):
    """Opens a stage of `total` steps and gives a function that reports steps done."""

    def __call__(self, stage: str, total: int) -> AbstractContextManager[Advance]:
        """Open the stage called `stage`."""
        ...


@contextmanager
def silent(stage: str, total: int) -> Iterator[Advance]:
    """Report nothing: the default of every library function."""
    yield lambda steps: None
