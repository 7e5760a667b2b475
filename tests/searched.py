"""A search on the demo model as `surgery tune` makes it; its results have every part."""

from dataclasses import dataclass
from pathlib import Path

from command_line import surgery_commands

LIMITS = ("--max-perplexity", "+5%", "--max-divergence", "0.05", "--max-capability-drop", "3")
SIZES = ("--trials", "16", "--prompt-count", "40", "--samples", "1")


@dataclass(frozen=True)
class Searched:
    """What it left; read only, but for the report.

    Attributes:
        directory: of the run.
        printed: its standard output.
    """

    directory: Path
    printed: str


def perform_search(directory: Path) -> Searched:
    """Search, and tell the results in JSON."""
    done = surgery_commands()(
        "tune", "demo", "--behavior", "negativity", *LIMITS, *SIZES, "--json", "--out", directory
    )
    assert done.code == 0, done.stderr
    return Searched(directory, done.stdout)
