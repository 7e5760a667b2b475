"""Commands of a page to type next: apply an edit, undo it, make an adapter, read answers."""

import shlex
from pathlib import Path

from modelsurgery.checkpoint.place import GGUF_SUFFIX, is_gguf


def delivery_commands(model: str, edits: list[str]) -> tuple[tuple[str, str], ...]:
    """What to do with edits of a model, a directory or a GGUF file: what it does, and the line."""
    edited = f"edited{GGUF_SUFFIX}" if is_gguf(model) else "edited"
    apply = ["surgery", "apply", model, *edits, "--out", edited]
    return (("apply to a copy", shlex.join(apply)), ("undo", f"surgery undo {edited}"))


def adapter_command(model: str, edits: list[str]) -> tuple[str, str]:
    """An adapter of edits: for llama.cpp if the model is a GGUF file, else for PEFT."""
    to, out = ("gguf", f"adapter{GGUF_SUFFIX}") if is_gguf(model) else ("peft", "adapter")
    line = ["surgery", "export", model, *edits, "--to", to, "--out", out]
    return f"adapter for {'llama.cpp' if to == 'gguf' else 'PEFT'}", shlex.join(line)


def compare_command(directory: Path) -> tuple[str, str]:
    """All answers of a run directory."""
    return "read all answers", shlex.join(["surgery", "compare", str(directory)])
