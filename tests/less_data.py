"""Less of the demo data, for tests of what a command does and not of what it finds.

A command reads and measures all of it several times, which takes most of its seconds.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
WITH_LESS_DATA = "import less_data; less_data.less_data().__enter__()"


@contextmanager
def less_data() -> Iterator[None]:
    """Inside the block, behaviors of the demo data have less of it, and less is looked into."""
    with ExitStack() as stack:
        for module, sizes in LESS.items():
            stack.enter_context(patch.multiple(module, **sizes))
        yield
