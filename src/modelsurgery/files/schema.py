"""Reading a YAML file into a pydantic model, with errors that help."""

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from modelsurgery.errors import RecipeError

Model = TypeVar("Model", bound=BaseModel)


def load_yaml(path: Path, model: type[Model]) -> Model:
    """Read and check a YAML file.

    Raises:
        RecipeError: missing, not YAML, an unknown key (with a suggestion) or a wrong value.
    """
    if not path.is_file():
        raise RecipeError(f"no file at {path}; expected a YAML file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    # ValueError: bytes that are not UTF-8, and dates like 2001-99-99.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{path}: not valid YAML ({reason})") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: expected keys and values, found {type(content).__name__}")
    return parse(content, model, str(path))


def parse(content: dict[str, Any], model: type[Model], where: str) -> Model:
    """Check keys and values against a pydantic model.

    Raises:
        RecipeError: an unknown key (with a suggestion) or a wrong value; one line for the first.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        # A misspelt key shows up twice, as unknown and as missing; the former says more.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        key = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "extra_forbidden":
            close = difflib.get_close_matches(key, model.model_fields, n=1)
            known = f"known: {', '.join(model.model_fields)}"
            hint = f"did you mean {close[0]!r}?" if close else known
            raise RecipeError(f"{where}: unknown key {key!r}; {hint}") from error
        message = first["msg"].removeprefix("Value error, ")
        value = "" if first["type"] == "missing" else f" = {first['input']!r}"
        at = f"{key}{value}: " if key else ""
        raise RecipeError(f"{where}: {at}{message}") from error
