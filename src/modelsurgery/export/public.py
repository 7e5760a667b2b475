"""What may leave this machine: names in place of paths, and no address of a server.

A repository for the Hub is made from files that hold paths: a recipe, results, configurations that
transformers wrote. A path tells of people and projects; its last part is enough to know a file by.
"""

import fnmatch
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelsurgery.edit.edit import Edit

# Files of a model directory other than weights that loading it needs, or its license asks for.
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors.index.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "*.jinja",
    "chat_template.json",
    "*processor_config.json",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "USE_POLICY*",
)
TEMPLATES = "additional_chat_templates/"  # the only directory that transformers reads
VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json")
PATH_KEYS = re.compile(r"(path|file|dir|directory|checkpoint)$")
LOCAL = re.compile(r"[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|file:")
# Of a recipe: files, which are known by their names, and words and numbers that say how.
FILE_KEYS = ("texts", "prompts", "neutral", "layout")
WORD_KEYS = (
    "direction",
    "fit",
    "direction_source",
    "direction_rule",  # its earlier name
    "dtype",
    "device",
    "revision",
    "text_column",
    "label_column",
)


def is_local(text: str) -> bool:
    """Whether a name is a path of this machine, and no id of the Hub."""
    return bool(
        LOCAL.match(text)
        or "\\" in text
        or text.count("/") > 1
        or ("/" in text and Path(text).exists())
    )


def public_name(text: str) -> str:
    """A name as it is; of a path, its last part."""
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1] if is_local(text) else text


def public_judge(name: str) -> str:
    """A judge as `--judge` spells it, without directories and without the address of a server.

    >>> public_judge("chat:/models/one@http://10.0.0.1:8000/v1"), public_judge("hf:owner/name")
    ('chat:one', 'hf:owner/name')
    """
    kind, colon, rest = name.partition(":")
    if not colon or LOCAL.match(name):
        return public_name(name)
    return f"{kind}:{public_name(re.split(r'@(?=https?://)', rest)[0])}"


def public_recipe(recipe: Mapping[str, Any], base_model: str, judge: str) -> dict[str, Any]:
    """What `recipe.resolved.yaml` says, without what it leaves open, and without places.

    The model is called `base_model`, and the judge as the results call it.
    """
    said: dict[str, Any] = {}
    for key, value in recipe.items():
        if value is None or value == []:
            continue
        if key == "model":
            said[key] = base_model
        elif key == "judge":
            said[key] = public_judge(judge)
        elif key == "behavior" and isinstance(value, str):
            said[key] = Path(value).name
        elif key in FILE_KEYS and isinstance(value, str):
            said[key] = value if value.startswith("hub:") else re.split(r"[/\\]", value)[-1]
        elif key in WORD_KEYS and isinstance(value, str):
            said[key] = public_name(value)
        elif _is_numbers(value):
            said[key] = value
    return said


def public_edit(edit: Edit) -> Edit:
    """An edit with names in place of paths in what it says of its origin; itself without any."""
    origin = edit.provenance
    settings = {public_name(key): _public(value) for key, value in origin.settings.items()}
    inputs = {public_name(key): value for key, value in origin.inputs.items()}
    layout = edit.layout
    if layout is not None and is_local(layout.title):
        layout = layout.model_copy(update={"title": public_name(layout.title)})
    provenance = replace(origin, settings=settings, inputs=inputs)
    if provenance == origin and layout == edit.layout:
        return edit
    return replace(edit, provenance=provenance, layout=layout)


def public_file(directory: Path, name: str) -> bytes | None:
    """Content of a file of a model directory for a repository; None if it has no place there."""
    plain = name.removeprefix(TEMPLATES)
    if "/" in plain or not any(fnmatch.fnmatchcase(plain, one) for one in MODEL_FILES):
        return None
    content = (directory / name).read_bytes()
    if not name.endswith(".json") or name in VOCABULARIES:
        return content
    try:
        before = json.loads(content)
    except (ValueError, RecursionError):
        return None  # nothing can load it, and nobody can say what is in it
    after = _without_paths(before)
    if after == before:
        return content
    return (json.dumps(after, indent=2, ensure_ascii=False) + "\n").encode()


def _public(value: Any) -> Any:
    if isinstance(value, str):
        return public_name(value)
    if isinstance(value, dict):
        return {public_name(str(key)): _public(one) for key, one in value.items()}
    return [_public(one) for one in value] if isinstance(value, list | tuple) else value


def _without_paths(value: Any) -> Any:
    """JSON without the entries whose key says that they are paths, where they are local ones."""
    if isinstance(value, list):
        return [_without_paths(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _without_paths(one)
        for key, one in value.items()
        if not (isinstance(one, str) and PATH_KEYS.search(key) and is_local(one))
    }


def _is_numbers(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(isinstance(one, bool | int | float) for one in values)
