"""The embedded model and the small world it speaks of.

`embedded_model_path()` is the trained Llama that ships with the package; `labeled_texts`,
`prompts`, `neutral_texts` and `facts` are its data; `judge.py` holds its exact judge. All of it is
for this model only. Importing this package needs neither torch nor transformers; only
`tools/train_demo.py` does.
"""

import importlib.resources
from pathlib import Path

from modelsurgery.data.demo.behaviors import (
    BEHAVIORS,
    exchanges,
    facts,
    harmless_requests,
    labeled_texts,
    neutral_texts,
    prompts,
)
from modelsurgery.data.demo.world import is_held_out, split_sentences

__all__ = [
    "BEHAVIORS",
    "EMBEDDED",
    "embedded_model_path",
    "exchanges",
    "facts",
    "harmless_requests",
    "is_embedded",
    "is_held_out",
    "labeled_texts",
    "neutral_texts",
    "prompts",
    "split_sentences",
]


EMBEDDED = "embedded"  # its name


def is_embedded(model: str | Path) -> bool:
    """Whether a model is the embedded one, given by its name or its directory.

    The name wins over a directory that is called so; `./embedded` is the directory.
    """
    if model == EMBEDDED:
        return True
    path = Path(model)
    return path.is_dir() and path.resolve() == embedded_model_path().resolve()


def embedded_model_path() -> Path:
    """Return the directory of the demo model that ships with the package.

    Returns:
        A directory with config, tokenizer and safetensors weights, 4 MB.

    Raises:
        FileNotFoundError: the model is missing from the installation.

    Example:
        >>> open_checkpoint(embedded_model_path()).config["num_hidden_layers"]
        4
    """
    path = Path(str(importlib.resources.files("modelsurgery.data.demo"))) / "model"
    if not (path / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"the demo model is missing from {path}: reinstall modelsurgery, or train it with "
            f"`python -m tools.train_demo --out {path}`"
        )
    return path
