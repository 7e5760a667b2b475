"""The demo model, and texts and prompts in the small language that it speaks.

`demo_model_path()` is the trained Llama that ships with the package; `labeled_texts`,
`prompts`, `neutral_texts` and `facts` are its data; `judge.py` holds its exact judge. All of it is
for this model only. Importing this package needs neither torch nor transformers; only
`tools/train_demo.py` does.
"""

import importlib.resources
from pathlib import Path

from modelsurgery.data.demo.behaviors import (
    BEHAVIORS,
    Part,
    exchanges,
    facts,
    harmless_requests,
    labeled_texts,
    neutral_texts,
    prompts,
)
from modelsurgery.data.demo.grammar import is_reserved, split_sentences

__all__ = [
    "BEHAVIORS",
    "DEMO",
    "Part",
    "current_name",
    "demo_model_path",
    "exchanges",
    "facts",
    "harmless_requests",
    "is_demo_model",
    "is_reserved",
    "labeled_texts",
    "neutral_texts",
    "prompts",
    "split_sentences",
]


DEMO = "demo"  # its name
EARLIER_NAME = "embedded"


def current_name(model: str) -> str:
    """The name of a model; the demo model's where its earlier name is given."""
    return DEMO if model == EARLIER_NAME else model


def is_demo_model(model: str | Path) -> bool:
    """Whether a model is the demo model, given by its name or its directory.

    A name wins over a directory that is called so; `./demo` is the directory. Its earlier name,
    `embedded`, is known too.
    """
    if model in (DEMO, EARLIER_NAME):
        return True
    path = Path(model)
    return path.is_dir() and path.resolve() == demo_model_path().resolve()


def demo_model_path() -> Path:
    """Return the directory of the demo model that ships with the package.

    Returns:
        A directory with config, tokenizer and safetensors weights, 4 MB.

    Raises:
        FileNotFoundError: the model is missing from the installation.

    Example:
        >>> open_checkpoint(demo_model_path()).config["num_hidden_layers"]
        4
    """
    path = Path(str(importlib.resources.files("modelsurgery.data.demo"))) / "model"
    if not (path / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"the demo model is missing from {path}: reinstall modelsurgery, or train it with "
            f"`python -m tools.train_demo --out {path}`"
        )
    return path
