"""Running `surgery` as a user does, from a process that has imported its libraries once."""

import json
from pathlib import Path
from typing import Any

from command_line import Outcome, surgery_commands
from less_data import WITH_LESS_DATA

# Settings of a surgery that takes seconds, for tests that don't judge what it does to the model.
QUICK = {
    "rows": 0.02,
    "rule": "paper",
    "direction_source": "mean-difference",
    "strength": 4,
    "samples": 1,
    "prompt_count": 16,
    "train_texts": 100,
    "neutral_texts": 60,
}
SHOWN_OR_NOT = (0, 5)  # the behavior changed as asked, or no such change can be told


def command(
    *arguments: str | Path, cwd: Path | None = None, with_all_data: bool = False
) -> Outcome:
    """What `surgery ARGUMENTS` left, with less of the demo data unless all of it is wanted."""
    before = "" if with_all_data else WITH_LESS_DATA
    return surgery_commands()(*arguments, workplace=cwd or Path.cwd(), before=before)


def surgery(
    *arguments: str | Path, expected_exit: int | tuple[int, ...] = 0, **options: Any
) -> str:
    """Run `surgery ARGUMENTS`, with the options of `command`; gives its standard output."""
    done = command(*arguments, **options)
    allowed = expected_exit if isinstance(expected_exit, tuple) else (expected_exit,)
    assert done.code in allowed, done.stderr
    return done.stdout


def surgery_fails(*arguments: str | Path, expected_exit: int) -> str:
    """Run `surgery ARGUMENTS`, which fails; gives its standard error."""
    done = command(*arguments)
    assert done.code == expected_exit, done.stderr
    return done.stderr


def quick_recipe(path: Path, **settings: object) -> Path:
    """Write a recipe with the settings of `QUICK`, and others; gives its path."""
    path.write_text(json.dumps({**QUICK, **settings}))  # JSON is YAML
    return path


def surgery_json(*arguments: str | Path, **options: Any) -> dict[str, Any]:
    """Run `surgery ARGUMENTS --json`; standard output must be one JSON object."""
    content = json.loads(surgery(*arguments, "--json", **options))
    assert isinstance(content, dict)
    return content
