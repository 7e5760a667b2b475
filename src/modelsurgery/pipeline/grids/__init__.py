"""Grids: cells that can be measured apart, and who measures them.

A `Cell` is one piece of work that leaves its results in files. `InProcess`, `Processes` and `OnRay`
perform cells here, in several processes of this machine, or on a Ray cluster; what the files hold
does not depend on who performed the cell. A grid that was interrupted goes on with the files that
are there.
"""

from modelsurgery.pipeline.grids.cells import Cell, Ended, Kept, content_name
from modelsurgery.pipeline.grids.executors import Executor, InProcess, Processes, perform_all
from modelsurgery.pipeline.grids.on_ray import OnRay

__all__ = [
    "Cell",
    "Ended",
    "Executor",
    "InProcess",
    "Kept",
    "OnRay",
    "Processes",
    "content_name",
    "perform_all",
]
