"""What is written of a recipe: in a run directory, and in a study for processes that join it."""

from datetime import datetime
from pathlib import Path
from typing import Any

from modelsurgery.data import demo
from modelsurgery.pipeline.recipe import Recipe

PATHS = ("texts", "prompts", "neutral", "data", "layout")
UNRECORDED = {"out", "storage"}  # a storage's URL may hold a password


def recorded(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values."""
    return recipe.model_dump(mode="json", exclude=UNRECORDED)


def recorded_for_others(recipe: Recipe, now: datetime) -> dict[str, Any]:
    """A recipe as plain values that mean the same in any directory.

    Args:
        recipe: whose relative paths are of the working directory.
        now: the time that its chat template is told.
    """
    values = recorded(recipe.model_copy(update={"now": now}))
    for key in ("model", "behavior", *PATHS):
        given = values[key]
        if given is not None and _is_path(key, given):
            values[key] = str(Path(given).resolve())
    values["edits"] = [str(path.resolve()) for path in recipe.edits]
    return values


def _is_path(key: str, given: str) -> bool:
    """Whether a value is a path rather than a name, as whoever reads it decides."""
    if key == "model":
        return not demo.is_demo_model(given) and Path(given).exists()
    return Path(given).is_file() if key == "behavior" else Path(given).exists()
