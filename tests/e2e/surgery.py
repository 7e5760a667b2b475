"""Running `surgery` as a user does: a process of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from command_line import without_progress

SHOWN_OR_NOT = (0, 5)  # the behavior changed as asked, or no such change can be told


def surgery(
    *arguments: str | Path, expected_exit: int | tuple[int, ...] = 0, cwd: Path | None = None
) -> str:
    """Run `surgery ARGUMENTS`; gives its standard output."""
    command = [sys.executable, "-m", "modelsurgery", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    allowed = expected_exit if isinstance(expected_exit, tuple) else (expected_exit,)
    assert done.returncode in allowed, done.stderr
    return done.stdout


def surgery_fails(*arguments: str | Path, expected_exit: int) -> str:
    """Run `surgery ARGUMENTS`, which fails; gives its standard error."""
    command = [sys.executable, "-m", "modelsurgery", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == expected_exit, done.stderr
    return without_progress(done.stderr)


def surgery_json(*arguments: str | Path, **options: Any) -> dict[str, Any]:
    """Run `surgery ARGUMENTS --json`; standard output must be one JSON object."""
    content = json.loads(surgery(*arguments, "--json", **options))
    assert isinstance(content, dict)
    return content
