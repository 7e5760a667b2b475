"""Edits as GGUF: a llama.cpp LoRA adapter, or an edited copy of a file.

llama.cpp adds lora_b · lora_a · alpha / r to a weight; alpha = r, so the factors are exact. Names
come from the gguf package's own map. llama.cpp's converters change no gate matrix that is listed
here: a fused one stays fused (`ffn_up`), a transposed one (GPT-2) is turned as the factors are.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from modelsurgery.apply.copying import EditedCopy, apply_to_copy
from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.gguf_files import ARCHITECTURE_KEY, architecture_of
from modelsurgery.checkpoint.quantized import gguf_package
from modelsurgery.edit.edit import Edit
from modelsurgery.errors import UnsupportedModelError
from modelsurgery.export.factors import (
    Factors,
    full_or_half,
    low_rank_factors,
    narrowed,
    unread_types,
)
from modelsurgery.files.atomic import refuse_existing, storage_errors, write_bytes
from modelsurgery.files.progress import Progress, silent

# Architectures that the gguf package names, and that llama.cpp can neither convert nor run.
NAMES_ONLY = {"gptj"}


@dataclass(frozen=True)
class GgufAdapter:
    """Result of `write_gguf_adapter`.

    Attributes:
        path: the adapter file.
        architecture: llama.cpp's name of the base model's architecture.
        rank: number r of directions per weight.
        tensors: llama.cpp's names of the weights that the adapter changes.
        size_bytes: size of the file.
        unread_types: types of a GGUF file whose rows could not be compared with those that the
            edits were made for.

    Example:
        >>> write_gguf_adapter(checkpoint, [edit], "adapter.gguf").architecture  # doctest: +SKIP
        'llama'
    """

    path: Path
    architecture: str
    rank: int
    tensors: tuple[str, ...]
    size_bytes: int
    unread_types: tuple[str, ...] = ()


def write_gguf_adapter(
    checkpoint: Checkpoint, edits: Sequence[Edit], path: Path | str, *, dtype: str = "float32"
) -> GgufAdapter:
    """Write edits as a LoRA adapter for llama.cpp. Needs `pip install 'modelsurgery[gguf]'`.

    Args:
        checkpoint: the model that the edits were made from, or a GGUF file of it. The adapter fits
            its GGUF files of any quantization. Rows of a type that cannot be edited are not
            compared with those that the edits were made for.
        edits: edits of this model, added up.
        path: file to create.
        dtype: `float32` keeps directions and coefficients exactly; `float16` rounds them.

    Returns:
        The file and what it holds.

    Raises:
        EditMismatchError: an edit was made for another checkpoint.
        NothingChangedError: the edits add up to nothing.
        OutputExistsError: `path` exists.
        RecipeError: the gguf package is not installed, the dtype is unknown, or it cannot hold a
            number.
        StorageError: the disk is full or cannot be written.
        UnsupportedModelError: llama.cpp does not know the architecture, or an expert is edited.

    Example:
        >>> adapter = write_gguf_adapter(checkpoint, [edit], "adapter.gguf")  # doctest: +SKIP
    """
    path, numpy_dtype = Path(path), full_or_half(dtype)
    refuse_existing(path)
    gguf = gguf_package("writing GGUF needs")
    factors = low_rank_factors(checkpoint, edits)
    architecture = _architecture(gguf, checkpoint)
    names = _names(gguf, architecture, checkpoint, factors)
    tensors: dict[str, NDArray[Any]] = {}
    for one, name in zip(factors, names, strict=True):
        tensors[f"{name}.lora_a"] = narrowed(one.directions, numpy_dtype)
        tensors[f"{name}.lora_b"] = narrowed(one.coefficients, numpy_dtype)
    rank = factors[0].rank
    content = _adapter_bytes(gguf, architecture, rank, tensors)
    write_bytes(path, content)
    unread = unread_types(checkpoint, factors)
    return GgufAdapter(path, architecture, rank, names, len(content), unread)


def write_merged_gguf(
    checkpoint: Checkpoint,
    edits: Sequence[Edit],
    path: Path | str,
    *,
    progress: Progress = silent,
) -> EditedCopy:
    """Write an edited copy of a GGUF file (see `apply_to_copy`).

    Args:
        checkpoint: a GGUF file of the model, of any type that rows can be quantized to.
        edits: edits of this model, added up.
        path: file to create, `NAME.gguf`.
        progress: receives megabytes copied and hashed.

    Raises:
        EditMismatchError: the weights are not those that an edit was made for.
        OutputExistsError: `path` exists.
        UnsupportedModelError: the checkpoint is no GGUF file, or its rows cannot be quantized.
    """
    if not checkpoint.place.is_gguf:
        raise UnsupportedModelError(
            f"{checkpoint.place} is no GGUF file; give one of this model, which its edits fit "
            "too, or write an adapter with --form adapter"
        )
    return apply_to_copy(checkpoint.place.model, edits, path, progress=progress)


def _adapter_bytes(
    gguf: ModuleType, architecture: str, rank: int, tensors: Mapping[str, NDArray[Any]]
) -> bytes:
    """The file's bytes; the package writes to a path only."""
    with storage_errors(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory() as place:
        file = Path(place) / "adapter.gguf"
        writer = gguf.GGUFWriter(str(file), architecture)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", float(rank))
        for name, values in tensors.items():
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file.read_bytes()


def _architecture(gguf: ModuleType, checkpoint: Checkpoint) -> str:
    if checkpoint.place.is_gguf:
        return str(checkpoint.config[ARCHITECTURE_KEY])
    model_type = str(checkpoint.config.get("model_type"))
    architecture = architecture_of(model_type)
    if architecture in NAMES_ONLY or architecture not in gguf.MODEL_ARCH_NAMES.values():
        raise UnsupportedModelError(
            f"{checkpoint.directory}: llama.cpp has no known architecture for model type "
            f"{model_type!r}; use --to peft, or `surgery apply` and llama.cpp's own converter"
        )
    return architecture


def _names(
    gguf: ModuleType, architecture: str, checkpoint: Checkpoint, factors: Sequence[Factors]
) -> tuple[str, ...]:
    """llama.cpp's names of the weights."""
    if checkpoint.place.is_gguf:
        return tuple(one.tensor for one in factors)
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
                f"{checkpoint.directory}: llama.cpp's {architecture} has no counterpart for "
                f"{one.tensor}; use --to peft"
            )
        found.append(str(name))
    return tuple(found)
