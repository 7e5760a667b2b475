"""GGUF files to measure on: Q4_K_M as llama.cpp makes it, and one in the shape of a 7B.

The mixture of Q4_K_M is that of llama.cpp (`llama_tensor_get_type` in src/llama-quant.cpp) for a
dense model: Q6_K for the output matrix and for a half of `attn_v` and `ffn_down`, Q4_K for the
rest; a matrix whose rows are no multiple of 256 values gets the simple type that is nearest. ggml
quantizes, without an importance matrix.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsurgery.checkpoint.ggml import ggml_quantized
from modelsurgery.checkpoint.gguf_header import BLOCK_VALUES, TYPES, read_gguf_header
from modelsurgery.checkpoint.quantized import BY_GGML

FALLBACKS = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}
FILE_TYPE_Q4_K_M = 15
BLOCK = re.compile(r"blk\.(\d+)\.(.*)\.weight")
SEVEN_B = {"blocks": 32, "width": 4096, "inner": 11008, "vocabulary": 32000}
POOL_ROWS = 688  # a sixteenth of a gate matrix, repeated
GATE = "ffn_gate"


def q4_k_m_type(name: str, columns: int, blocks: int, *, is_tied: bool) -> str:
    """The type that a matrix gets."""
    found = BLOCK.fullmatch(name)
    wanted = "Q4_K"
    if found is None and (name == "output.weight" or (is_tied and name == "token_embd.weight")):
        wanted = "Q6_K"
    elif found is not None and found[2] in ("attn_v", "ffn_down"):
        wanted = "Q6_K" if _gets_more_bits(int(found[1]), blocks) else "Q4_K"
    return wanted if columns % BLOCK_VALUES[wanted] == 0 else FALLBACKS[wanted]


def _gets_more_bits(block: int, blocks: int) -> bool:
    eighth = blocks // 8
    return block < eighth or block >= 7 * blocks // 8 or (block - eighth) % 3 == 2


def write_q4_k_m(source: Path, path: Path) -> dict[str, str]:
    """The model of a GGUF file with its matrices as Q4_K_M; the type of each."""
    import gguf

    reader = gguf.GGUFReader(source)
    blocks = int(reader.fields["llama.block_count"].contents())
    is_tied = all(one.name != "output.weight" for one in reader.tensors)
    writer = gguf.GGUFWriter(str(path), "llama")
    _copy_metadata(reader, writer)
    types = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values)
            continue
        kind = q4_k_m_type(tensor.name, values.shape[-1], blocks, is_tied=is_tied)
        types[tensor.name] = kind
        number = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(tensor.name, in_type(values, kind), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return types


def in_type(values: NDArray[np.float32], kind: str) -> NDArray[np.uint8]:
    """Rows in the bytes of a type, by ggml or by the gguf package, which give the same."""
    import gguf

    if kind in BY_GGML:
        return ggml_quantized(values, kind)
    content: NDArray[np.uint8] = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    return content


def _copy_metadata(reader: Any, writer: Any) -> None:
    import gguf

    for name, field in reader.fields.items():
        if name == gguf.Keys.General.ARCHITECTURE or name.startswith("GGUF."):
            continue
        kind = field.types[0]
        entries = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = FILE_TYPE_Q4_K_M if name == "general.file_type" else field.contents()
        writer.add_key_value(name, value, kind, sub_type=entries)


def write_seven_b(path: Path) -> int:
    """A Q4_K_M file in the shape of Llama-2-7B; its size. Gate rows are random, the rest a hole."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    for key, value in (
        ("block_count", SEVEN_B["blocks"]),
        ("embedding_length", SEVEN_B["width"]),
        ("feed_forward_length", SEVEN_B["inner"]),
    ):
        writer.add_uint32(f"llama.{key}", value)
    end = 0
    for name, shape in seven_b_shapes().items():
        stored, number = shape, gguf.GGMLQuantizationType.F32
        dtype: np.dtype[Any] = np.dtype(np.float32)
        if len(shape) > 1:
            kind = q4_k_m_type(name, shape[-1], SEVEN_B["blocks"], is_tied=False)
            number, dtype = gguf.GGMLQuantizationType[kind], np.dtype(np.uint8)
            _, values, size = TYPES[int(number)]
            stored = (*shape[:-1], shape[-1] // values * size)
        count = int(np.prod(stored)) * dtype.itemsize
        writer.add_tensor_info(name, stored, dtype, count, raw_dtype=number)
        end += -(-count // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(-(-path.stat().st_size // 32) * 32 + end)
    _fill_gates(path)
    return path.stat().st_size


def seven_b_shapes() -> dict[str, tuple[int, ...]]:
    """Tensors by name, as numpy has their shapes."""
    width, inner, vocabulary = (SEVEN_B[key] for key in ("width", "inner", "vocabulary"))
    matrices = {
        "attn_q": (width, width), "attn_k": (width, width), "attn_v": (width, width),
        "attn_output": (width, width), "ffn_gate": (inner, width), "ffn_up": (inner, width),
        "ffn_down": (width, inner), "attn_norm": (width,), "ffn_norm": (width,),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, width)}
    for block in range(SEVEN_B["blocks"]):
        shapes.update({f"blk.{block}.{name}.weight": shape for name, shape in matrices.items()})
    return {**shapes, "output_norm.weight": (width,), "output.weight": (vocabulary, width)}


def _fill_gates(path: Path) -> None:
    """Random rows in all gate matrices: a pool, over and over, so that it takes seconds."""
    pool = np.random.default_rng(0).standard_normal((POOL_ROWS, SEVEN_B["width"]))
    content = in_type((pool * 0.02).astype(np.float32), "Q4_K").tobytes()
    with path.open("r+b") as file:
        for tensor in read_gguf_header(path).tensors.values():
            if GATE in tensor.name:
                file.seek(tensor.start)
                file.write(content * (tensor.size_bytes // len(content)))
