"""ggml's own quantizer, where a package that brings it is installed.

The gguf package quantizes to the simple types, with the same bytes as ggml, and to no K-quant. The
library inside llama.cpp's Python bindings does, and is called without importing the bindings.
"""

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelsurgery.checkpoint.gguf_header import TYPES

# Package, and its files that may have the quantizer, tried in order.
LIBRARIES = (
    ("xllamacpp", ("xllamacpp*.so",)),
    ("llama_cpp", ("lib/libggml-base*", "lib/libggml*")),
)
NUMBERS = {name: number for number, (name, _, _) in TYPES.items()}


def ggml_quantized(values: NDArray[np.float32], dtype: str) -> NDArray[np.uint8]:
    """Rows [k, d] in the blocks of a type that needs no importance matrix, [k, bytes].

    ggml must be installed.

    Raises:
        ValueError: d is not a multiple of the values in a block.
    """
    library = _library()
    assert library is not None
    values = np.ascontiguousarray(values, dtype=np.float32)
    rows, columns = values.shape
    _, block_values, block_bytes = TYPES[NUMBERS[dtype]]
    if columns % block_values:  # ggml would end the process
        raise ValueError(f"rows of {columns} values; {dtype} has blocks of {block_values}")
    result = np.empty((rows, columns // block_values * block_bytes), dtype=np.uint8)
    written = library.ggml_quantize_chunk(
        NUMBERS[dtype], values.ctypes.data, result.ctypes.data, 0, rows, columns, None
    )
    if written != result.nbytes:
        raise RuntimeError(f"ggml wrote {written} bytes of {result.nbytes}")
    return result


def has_ggml() -> bool:
    """Whether ggml's quantizer can be called."""
    return _library() is not None


@cache
def _library() -> ctypes.CDLL | None:
    for package, patterns in LIBRARIES:
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            continue
        for pattern in patterns:
            for path in sorted(Path(found.origin).parent.glob(pattern)):
                if (library := _opened(path)) is not None:
                    return library
    return None


def _opened(path: Path) -> ctypes.CDLL | None:
    """The library, if it can be loaded here and has the function."""
    try:
        library = ctypes.CDLL(str(path))
        quantize = library.ggml_quantize_chunk
    except (OSError, AttributeError):
        return None
    quantize.restype = ctypes.c_size_t
    # Type, values, blocks, first value, rows, values a row, importance of columns.
    quantize.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *3 * [ctypes.c_int64], ctypes.c_void_p,
    ]  # fmt: skip
    return library
