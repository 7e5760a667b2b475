"""A llama.cpp LoRA adapter of edits, in a GGUF file.

llama.cpp adds lora_b · lora_a · alpha / r to a weight; alpha = r, so the factors are exact. Names
come from the gguf package's own map. llama.cpp's converters change no gate matrix that is listed
here: a fused one stays fused (`ffn_up`), a transposed one (GPT-2) is turned as the factors are.
"""

import importlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from modelsurgery.checkpoint import Checkpoint
from modelsurgery.edit import Edit
from modelsurgery.errors import RecipeError, UnsupportedModelError
from modelsurgery.export.factors import Factors, low_rank_factors
from modelsurgery.files import refuse_existing, write_bytes

# `model_type` of config.json to llama.cpp's architecture, where the two spell it differently.
ARCHITECTURES = {
    "cohere": "command-r",
    "gemma3_text": "gemma3",
    "gpt_bigcode": "starcoder",
    "gpt_neox": "gptneox",
    "hunyuan_v1_dense": "hunyuan-dense",
    "mistral": "llama",
    "olmo3": "olmo2",
    "phi": "phi2",
    "qwen2_5_vl": "qwen2vl",
    "qwen2_vl": "qwen2vl",
    "qwen3_5": "qwen35",
    "qwen3_5_text": "qwen35",
    "qwen3_vl": "qwen3vl",
}


@dataclass(frozen=True)
class GgufAdapter:
    """An adapter that was written.

    Attributes:
        path: the file.
        architecture: of the base, as llama.cpp calls it.
        rank: number r of stacked directions.
        tensors: llama.cpp's names of the weights that it adds to.
        size_bytes: of the file.
    """

    path: Path
    architecture: str
    rank: int
    tensors: tuple[str, ...]
    size_bytes: int


def write_gguf_adapter(
    checkpoint: Checkpoint, edits: Sequence[Edit], path: Path, *, dtype: str = "float32"
) -> GgufAdapter:
    """Write edits as one LoRA adapter for llama.cpp.

    Args:
        checkpoint: the model that the edits were made from, in full precision; the adapter fits
            its GGUF files of any quantisation.
        edits: edits of this model, summed.
        path: the file to make.
        dtype: float32 keeps directions and coefficients as they are; float16 rounds.

    Raises:
        EditMismatchError: the checkpoint is not the one that an edit was made for.
        NothingChangedError: nothing is left to add.
        OutputExistsError: something is at `path`.
        RecipeError: the gguf package is not installed, or another dtype.
        UnsupportedModelError: llama.cpp has no such architecture, or an expert is edited.
    """
    if dtype not in ("float32", "float16"):
        raise RecipeError(f"dtype {dtype!r}; a GGUF adapter is float32 or float16")
    refuse_existing(path)
    gguf = _package()
    factors = low_rank_factors(checkpoint, edits)
    architecture = _architecture(gguf, checkpoint)
    names = _names(gguf, architecture, checkpoint, factors)
    kind = np.dtype(dtype)
    with tempfile.TemporaryDirectory() as place:  # the package writes to a path only
        file = Path(place) / path.name
        writer = gguf.GGUFWriter(str(file), architecture)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", float(factors[0].rank))
        for one, name in zip(factors, names, strict=True):
            writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(one.directions, kind))
            writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(one.coefficients, kind))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        write_bytes(path, file.read_bytes())
    return GgufAdapter(path, architecture, factors[0].rank, names, path.stat().st_size)


def _package() -> ModuleType:
    try:
        return importlib.import_module("gguf")
    except ModuleNotFoundError as error:
        raise RecipeError(
            "writing GGUF needs the gguf package; pip install 'modelsurgery[gguf]'"
        ) from error


def _architecture(gguf: ModuleType, checkpoint: Checkpoint) -> str:
    model_type = str(checkpoint.config.get("model_type"))
    architecture = ARCHITECTURES.get(model_type, model_type)
    if architecture not in gguf.MODEL_ARCH_NAMES.values():
        raise UnsupportedModelError(
            f"{checkpoint.directory}: no architecture of llama.cpp is known for model type "
            f"{model_type!r}; use --to peft, or `surgery apply` and llama.cpp's own converter"
        )
    return architecture


def _names(
    gguf: ModuleType, architecture: str, checkpoint: Checkpoint, factors: Sequence[Factors]
) -> tuple[str, ...]:
    """llama.cpp's names of the weights."""
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    blocks = max(one.address.block for one in factors) + 1
    names = gguf.get_tensor_name_map(kinds[architecture], blocks)
    found = []
    for one in factors:
        # The text part of a vision-language model is a model of its own to llama.cpp.
        module = one.module.replace("model.language_model.", "model.")
        name = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if name is None:
            raise UnsupportedModelError(
                f"{checkpoint.directory}: llama.cpp's {architecture} has no counterpart of "
                f"{one.tensor}; use --to peft"
            )
        found.append(str(name))
    return tuple(found)
