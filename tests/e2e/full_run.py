"""One surgery of the demo model at full size, as the quickstart has it typed."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from surgery import surgery

COMMAND = "surgery run --out first"


@dataclass(frozen=True)
class FullRun:
    """What it left; read only.

    Attributes:
        directory: of the run.
        printed: its standard output.
    """

    directory: Path
    printed: str


def perform(place: Path) -> FullRun:
    """Run the command in an empty directory."""
    printed = surgery(*shlex.split(COMMAND)[1:], cwd=place, with_all_data=True)
    return FullRun(place / "first", printed)
