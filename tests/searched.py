"""A search on the demo model, as the guide to tuning has it typed, of less of the demo data.

Its results have every part.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from command_line import surgery_commands
from less_data import AND_THE_WHOLE_CURVE

COMMAND = (
    "surgery tune demo --behavior negativity --max-perplexity +5% --max-divergence 0.05 "
    "--max-capability-drop 3 --trials 16 --prompt-count 40 --samples 1 --out tuned"
)


@dataclass(frozen=True)
class Searched:
    """What it left; read only, but for the report.

    Attributes:
        directory: of the run.
        printed: its standard output.
    """

    directory: Path
    printed: str


def perform_search(place: Path) -> Searched:
    """Run the command in an empty directory."""
    done = surgery_commands()(
        *shlex.split(COMMAND)[1:], workplace=place, before=AND_THE_WHOLE_CURVE
    )
    assert done.code == 0, done.stderr
    return Searched(place / "tuned", done.stdout)
