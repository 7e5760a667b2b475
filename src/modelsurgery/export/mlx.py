"""An adapter of edits for mlx-lm, in the form of its own LoRA training; written without MLX.

mlx-lm adds scale · (x · lora_a) · lora_b to a linear layer, with lora_a [in, r] and lora_b
[r, out]: directions and coefficients, transposed, with scale 1. Its configuration names layers
inside a block, and how many blocks, counted from the last, have them; those without an edit keep
lora_b = 0.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import save

from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.edit.edit import Edit
from modelsurgery.errors import UnsupportedModelError
from modelsurgery.export.factors import (
    Factors,
    full_or_half,
    low_rank_factors,
    narrowed,
    refuse_gguf,
)
from modelsurgery.files.atomic import staged_directory, write_bytes, write_json

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapters.safetensors"
# How mlx-lm's models for text call their layers; GPT-2 and the like have names of their own there.
MODULE = re.compile(r"model\.layers\.(?P<block>\d+)\.(?P<key>.+)")


@dataclass(frozen=True)
class MlxAdapter:
    """Result of `write_mlx_adapter`; `modules` are the layers that the adapter changes."""

    directory: Path
    rank: int
    modules: tuple[str, ...]
    size_bytes: int


def write_mlx_adapter(
    checkpoint: Checkpoint,
    edits: Sequence[Edit],
    directory: Path | str,
    *,
    base_model: str | None = None,
    dtype: str = "float32",
) -> MlxAdapter:
    """Write edits as a LoRA adapter for mlx-lm (`--adapter-path`).

    Args:
        checkpoint: the model that the edits were made from. The adapter fits its MLX conversions
            of any quantization.
        edits: edits of this model, added up.
        directory: directory to create.
        base_model: what the configuration calls the model; by default the checkpoint's directory.
        dtype: `float32` keeps directions and coefficients exactly; `float16` rounds them.

    Raises:
        EditMismatchError: an edit was made for another checkpoint.
        NothingChangedError: the edits add up to nothing.
        OutputExistsError: `directory` exists.
        RecipeError: the dtype is unknown, or it cannot hold a number.
        UnsupportedModelError: an edited matrix is not a linear layer, or mlx-lm names it otherwise.

    Example:
        >>> write_mlx_adapter(checkpoint, [edit], "adapter")  # doctest: +SKIP
    """
    directory, numpy_dtype = Path(directory), full_or_half(dtype)
    refuse_gguf(checkpoint, "an MLX adapter")
    factors = low_rank_factors(checkpoint, edits)
    config = _config(checkpoint, factors, base_model or str(checkpoint.directory))
    tensors: dict[str, NDArray[Any]] = {}
    for one in factors:
        tensors[f"{one.module}.lora_a"] = narrowed(one.directions.T, numpy_dtype)
        tensors[f"{one.module}.lora_b"] = narrowed(one.coefficients.T, numpy_dtype)
    content = save(tensors, {"format": "mlx"})
    with staged_directory(directory) as staged:
        write_bytes(staged / WEIGHTS_FILE, content)
        write_json(staged / CONFIG_FILE, config)
    modules = tuple(one.module for one in factors)
    return MlxAdapter(directory, factors[0].rank, modules, len(content))


def _config(checkpoint: Checkpoint, factors: Sequence[Factors], model: str) -> dict[str, Any]:
    """Content of `adapter_config.json`."""
    places = [_place(checkpoint, one) for one in factors]
    blocks = int(checkpoint.config["num_hidden_layers"])
    return {
        "model": model,
        "fine_tune_type": "lora",
        "num_layers": blocks - min(block for block, _ in places),
        "lora_parameters": {
            "rank": factors[0].rank,
            "scale": 1.0,
            "dropout": 0.0,
            "keys": sorted({key for _, key in places}),
        },
    }


def _place(checkpoint: Checkpoint, one: Factors) -> tuple[int, str]:
    """Block of a layer, and its name inside the block."""
    found = MODULE.fullmatch(one.module)
    if found is None or one.is_transposed or "num_hidden_layers" not in checkpoint.config:
        raise UnsupportedModelError(
            f"{checkpoint.directory}: mlx-lm has another name than {one.module} for this layer; "
            "use `surgery apply`, then mlx_lm.convert on the edited directory"
        )
    return int(found["block"]), found["key"]
