"""Less of the demo data, for tests of what a command does and not of what it finds.

A command reads and measures all of it several times, which takes most of its seconds.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

LESS: dict[str, dict[str, Any]] = {
    "modelsurgery.data.behaviors.gathering": {
        "DEMO_TEXTS": 1200,
        "DEMO_NEUTRAL": 80,
        "DEMO_FACTS": 60,
        "DEMO_VALIDATION_FACTS": 60,
    },
    "modelsurgery.interpret.reactions": {"MOST_TEXTS": 16},
    "modelsurgery.pipeline.choosing": {"REPORT_TEXTS": 60},
    "modelsurgery.search.search": {"CONTINUATIONS": 40},
}
FEW_DOSES = {
    "modelsurgery.pipeline.choosing": {"DOSES_BY_COUNT": dict.fromkeys((3, 5, 8), (0.0, 1.0, 2.0))}
}
# Python for a process of `surgery`; the modules of tests are on its path.
WITH_LESS_DATA = "import less_data; less_data.take_less_data()"
AND_THE_WHOLE_CURVE = "import less_data; less_data.take_less_data(whole_curve=True)"


def _patches(whole_curve: bool = False) -> list[Any]:
    several = [LESS] if whole_curve else [LESS, FEW_DOSES]
    return [patch.multiple(module, **sizes) for one in several for module, sizes in one.items()]


def take_less_data(*, whole_curve: bool = False) -> None:
    """From now on behaviors of the demo data have less of it, and less is looked into.

    Edits are tried at three strengths for the dose-response curve unless all of it is wanted.
    """
    for one in _patches(whole_curve):
        one.start()


@contextmanager
def less_data() -> Iterator[None]:
    """The same inside the block."""
    with ExitStack() as stack:
        for one in _patches():
            stack.enter_context(one)
        yield
