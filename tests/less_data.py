"""Less of the demo data, for tests of what a command does and not of what it finds.

A command reads and measures all of it several times, which takes most of its seconds.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

LESS = {
    "modelsurgery.data.behaviors.gathering": {
        "DEMO_TEXTS": 1200,
        "DEMO_NEUTRAL": 80,
        "DEMO_FACTS": 60,
        "DEMO_VALIDATION_FACTS": 60,
    },
    "modelsurgery.interpret.reactions": {"MOST_TEXTS": 16},
    "modelsurgery.pipeline.choosing": {"REPORT_TEXTS": 60},
}
# Python for a process of `surgery`; the modules of tests are on its path.
WITH_LESS_DATA = "import less_data; less_data.take_less_data()"


def _patches() -> list[Any]:
    return [patch.multiple(module, **sizes) for module, sizes in LESS.items()]


def take_less_data() -> None:
    """From now on behaviors of the demo data have less of it, and less is looked into."""
    for one in _patches():
        one.start()


@contextmanager
def less_data() -> Iterator[None]:
    """The same inside the block."""
    with ExitStack() as stack:
        for one in _patches():
            stack.enter_context(one)
        yield
