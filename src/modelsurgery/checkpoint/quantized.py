"""Rows of quantized values: what they are worth, and how something is added to them.

A row w that gets δ is dequantized, and w + δ is quantized again: the row's scales are new, and no
importance matrix enters. A step of four bits may be longer than what an edit adds to a value, so
that a small δ would be rounded away. Rows of which too little arrives are quantized once more with
as much of δ on top as is missing, so that ⟨w' - w, δ⟩ / ⟨δ, δ⟩ comes close to 1.
"""

import importlib
import os
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelsurgery.checkpoint.ggml import ggml_quantized, has_ggml
from modelsurgery.checkpoint.gguf_header import TYPES
from modelsurgery.errors import RecipeError, UnsupportedModelError
from modelsurgery.files.parallel import in_parallel

# The gguf package quantizes to these with the same bytes as ggml, and to the others not at all.
BY_THE_PACKAGE = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "MXFP4")
BY_GGML = ("Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_NL", "IQ4_XS")
# As elements of numpy arrays: a block is one element, whose field has the name of the type.
QUANTIZED_DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype([(name, f"V{size}")])
    for name, _, size in TYPES.values()
    if name in {*BY_THE_PACKAGE, *BY_GGML}
}
ENOUGH = 0.1  # how far what arrives of a row's change may be from all of it
ROUNDS = 3
CHUNK_VALUES = 1 << 18
NEEDS = "quantized GGUF files need"

Blocks = NDArray[Any]
Values = NDArray[np.float32]


def is_quantized(dtype: np.dtype[Any]) -> bool:
    """Whether elements of that type are blocks of quantized values."""
    return dtype.names is not None


def dequantized(blocks: Blocks) -> Values:
    """Values [k, d] of rows of blocks [k, blocks], in f32.

    Raises:
        RecipeError: the gguf package is not installed.
    """
    gguf = gguf_package(NEEDS)
    content = np.ascontiguousarray(blocks).view(np.uint8)
    if not len(content):
        return np.empty((0, 0), dtype=np.float32)
    # Damaged scales may be infinite: what they give is refused where rows are used.
    with np.errstate(over="ignore", invalid="ignore"):
        values: Values = gguf.quants.dequantize(content, _kind(blocks.dtype))
    return values


def quantized(values: Values, dtype: np.dtype[Any]) -> Blocks:
    """Values [k, d] as rows of blocks [k, blocks], with the bytes that ggml gives.

    Raises:
        RecipeError: the gguf package is not installed.
        UnsupportedModelError: it is a K-quant or IQ4, and ggml is not installed.
    """
    name = _name(dtype)
    if name in BY_THE_PACKAGE:
        with np.errstate(over="ignore", invalid="ignore"):
            content = gguf_package(NEEDS).quants.quantize(values, _kind(dtype))
    else:
        content = ggml_quantized(values, name)
    blocks: Blocks = content.view(dtype)
    return blocks


def check_writable(name: str, where: str) -> None:
    """Refuse a type that rows cannot be quantized to here.

    Raises:
        UnsupportedModelError: it needs ggml, which is not installed.
    """
    if name in BY_GGML and not has_ggml():
        raise UnsupportedModelError(
            f"{where}: rows of type {name} are quantized again by ggml, which is not installed; "
            "pip install 'modelsurgery[llama-cpp]', or make an adapter for the model as it is "
            "with `surgery export --to gguf`"
        )


class Added(NamedTuple):
    """Rows with something added, and how far it arrived."""

    blocks: Blocks  # [k, blocks]
    # [k, 3] float64: the achieved change with the wanted one, with itself, and the wanted one with
    # itself; not finite where a row cannot hold the sum.
    products: NDArray[np.float64]


def with_added(blocks: Blocks, delta: Values) -> Added:
    """Add `delta` [k, d] or [1, d] to rows of blocks [k, blocks], of one of `QUANTIZED_DTYPES`."""
    result = Added(np.empty_like(blocks), np.empty((len(blocks), 3)))
    delta = np.broadcast_to(delta, (len(blocks), delta.shape[1]))
    count = max(1, CHUNK_VALUES // delta.shape[1])

    def add(start: int) -> None:
        chunk = slice(start, start + count)
        result.blocks[chunk], result.products[chunk] = _with_added(blocks[chunk], delta[chunk])

    # ggml and numpy let other threads run.
    in_parallel(add, range(0, len(blocks), count), os.cpu_count() or 1)
    return result


def _with_added(blocks: Blocks, delta: Values) -> Added:
    base = dequantized(blocks)
    target = base + delta
    after = quantized(target, blocks.dtype)
    products = _products(base, delta, after)
    missing = _missing(products)
    short = np.flatnonzero(np.abs(missing) > ENOUGH)
    for _ in range(ROUNDS):
        if not len(short):
            break
        target[short] += missing[short, None] * delta[short]
        again = quantized(target[short], blocks.dtype)
        found = _products(base[short], delta[short], again)
        left = _missing(found)
        closer = np.abs(left) < np.abs(_missing(products[short]))
        after[short[closer]], products[short[closer]] = again[closer], found[closer]
        missing[short] = left
        short = short[np.abs(left) > ENOUGH]
    return Added(after, products)


def _products(base: Values, delta: Values, after: Blocks) -> NDArray[np.float64]:
    """Products of the achieved and the wanted change of each row (see `Added`)."""
    achieved = dequantized(after) - base
    pairs = ((achieved, delta), (achieved, achieved), (delta, delta))
    with np.errstate(over="ignore", invalid="ignore"):
        found = [np.einsum("ij,ij->i", one, other, dtype=np.float64) for one, other in pairs]
    return np.stack(found, axis=1)


def _missing(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of each row's change does not arrive, as a share of it; 0 where it is not finite."""
    both, _, wanted = products.T
    missing = 1 - both / np.where(wanted > 0, wanted, 1)
    result: NDArray[np.float64] = np.where(np.isfinite(missing) & (wanted > 0), missing, 0)
    return result


def _name(dtype: np.dtype[Any]) -> str:
    assert dtype.names is not None
    return str(dtype.names[0])


def _kind(dtype: np.dtype[Any]) -> Any:
    return gguf_package(NEEDS).GGMLQuantizationType[_name(dtype)]


def gguf_package(needs: str) -> ModuleType:
    """The gguf package; a refusal begins with what `needs` it, as `quantized GGUF files need`.

    Raises:
        RecipeError: it is not installed.
    """
    try:
        return importlib.import_module("gguf")
    except ModuleNotFoundError as error:
        raise RecipeError(f"{needs} the gguf package; pip install 'modelsurgery[gguf]'") from error
