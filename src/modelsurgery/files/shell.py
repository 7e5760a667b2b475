"""Paths in commands that are printed to be pasted."""

import shlex
from pathlib import Path


def path_word(path: Path | str) -> str:
    """A path as one word of a shell, which no program takes for an option.

    Example:
        >>> path_word("-my model")
        "'./-my model'"
    """
    word = str(path)
    return shlex.quote(f"./{word}" if word.startswith("-") else word)
