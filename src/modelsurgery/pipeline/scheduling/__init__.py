"""A run ahead of time: what each stage reads and writes, and how long that takes on this machine.

The *pace* (pace.py) of a model is measured on a few of the behavior's own texts; the *sizes*
(sizes.py) of a run are how many texts, prompts and samples it takes; the *schedule* (schedule.py)
says what follows from both, and makes the sizes smaller where they don't fit the time.
"""

from modelsurgery.pipeline.scheduling.clock import StageClock
from modelsurgery.pipeline.scheduling.pace import Pace, measure_pace
from modelsurgery.pipeline.scheduling.schedule import (
    DEFAULT_MINUTES,
    Schedule,
    is_small,
    make_schedule,
    with_seconds_taken,
)
from modelsurgery.pipeline.scheduling.sizes import SETTLED, Sizes

__all__ = [
    "DEFAULT_MINUTES",
    "SETTLED",
    "Pace",
    "Schedule",
    "Sizes",
    "StageClock",
    "is_small",
    "make_schedule",
    "measure_pace",
    "with_seconds_taken",
]
