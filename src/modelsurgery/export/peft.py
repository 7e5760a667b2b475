"""A PEFT adapter directory of edits: LoRA with exact factors, written without PEFT.

lora_A holds the directions [r, in], lora_B the coefficients [out, r], and lora_alpha = r, so that
PEFT's scale lora_alpha / r is 1. Only the modules that are touched are named.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import save

from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.rows import DTYPES
from modelsurgery.edit.edit import Edit
from modelsurgery.errors import RecipeError
from modelsurgery.export.factors import Factors, low_rank_factors, narrowed, refuse_gguf
from modelsurgery.files.atomic import staged_directory, write_bytes, write_json

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
ADAPTER_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True)
class PeftAdapter:
    """Result of `write_peft_adapter`.

    Attributes:
        directory: the adapter directory.
        rank: number r of directions per weight.
        modules: names of the modules that the adapter changes.
        size_bytes: size of the weights file.

    Example:
        >>> write_peft_adapter(checkpoint, [edit], "adapter").rank
        1
    """

    directory: Path
    rank: int
    modules: tuple[str, ...]
    size_bytes: int


def write_peft_adapter(
    checkpoint: Checkpoint,
    edits: Sequence[Edit],
    directory: Path | str,
    *,
    base_model: str | None = None,
    dtype: str = "float32",
) -> PeftAdapter:
    """Write edits as a LoRA adapter for PEFT. The same edits give the same bytes, in any order.

    Args:
        checkpoint: the model that the edits were made from.
        edits: edits of this model, added up.
        directory: directory to create.
        base_model: value of `base_model_name_or_path`; by default the checkpoint's directory.
        dtype: `float32` keeps directions and coefficients exactly; `float16` and `bfloat16` round
            them.

    Returns:
        The adapter and what it holds.

    Raises:
        EditMismatchError: an edit was made for another checkpoint.
        NothingChangedError: the edits add up to nothing.
        OutputExistsError: `directory` exists.
        RecipeError: the dtype is unknown, or it cannot hold a number.
        UnsupportedModelError: an edited matrix is not the weight of a linear layer.

    Example:
        >>> adapter = write_peft_adapter(checkpoint, [edit], "adapter", base_model="owner/name")
    """
    directory = Path(directory)
    if dtype not in ADAPTER_DTYPES:
        raise RecipeError(f"dtype {dtype!r}; expected one of {', '.join(ADAPTER_DTYPES)}")
    numpy_dtype = DTYPES[ADAPTER_DTYPES[dtype]]
    refuse_gguf(checkpoint, "a PEFT adapter")
    factors = low_rank_factors(checkpoint, edits)
    tensors: dict[str, NDArray[Any]] = {}
    for one in factors:
        name = PREFIX + one.module
        tensors[f"{name}.lora_A.weight"] = narrowed(one.directions, numpy_dtype)
        tensors[f"{name}.lora_B.weight"] = narrowed(one.coefficients, numpy_dtype)
    content = save(tensors, {"format": "pt"})
    with staged_directory(directory) as staged:
        write_bytes(staged / WEIGHTS_FILE, content)
        named = base_model or str(checkpoint.directory)
        write_json(staged / CONFIG_FILE, adapter_config(factors, named))
    modules = tuple(one.module for one in factors)
    return PeftAdapter(directory, factors[0].rank, modules, len(content))


def adapter_config(factors: Sequence[Factors], base_model: str) -> dict[str, Any]:
    """Content of `adapter_config.json`."""
    rank = factors[0].rank
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [one.module for one in factors],
        "fan_in_fan_out": factors[0].is_transposed,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "inference_mode": True,
    }
