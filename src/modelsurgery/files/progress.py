"""How long work tells what it is doing, without knowing who listens.

Library functions take a `Progress` and stay silent by default; the command line passes one that
draws on a terminal.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Reports what was done in a stage since the last report."""

    def __call__(self, steps: int, *, tokens: int = 0) -> None:
        """Report steps, and the tokens that a model read or wrote for them.

        There are 0 steps while a long one makes tokens, and 0 tokens where nobody counts them.
        """


class Progress(Protocol):
    """Opens a stage of `total` steps and gives a function that reports steps done."""

    def __call__(self, stage: str, total: int) -> AbstractContextManager[Advance]:
        """Open the stage called `stage`; stages may be opened inside each other."""


@contextmanager
def silent(stage: str, total: int) -> Iterator[Advance]:
    """Report nothing: the default of every library function."""

    def advance(steps: int, *, tokens: int = 0) -> None:
        pass

    yield advance
