"""Which tensors of a checkpoint hold gate rows, per model family, as data.

A gate row W1[i] decides neuron i of a gated MLP: act(W1[i] · x) * (up[i] · x). Names are those of
the file, with `{block}` for the block's number. A family that is not listed, a quantised one, or
one of which only a part is found is refused by name: nothing is skipped silently.
"""

import re
from dataclasses import dataclass

from modelsurgery.checkpoint import DTYPES, Checkpoint
from modelsurgery.errors import UnsupportedModelError

DENSE_GATED = "model.layers.{block}.mlp.gate_proj.weight"


@dataclass(frozen=True)
class GateLayout:
    """Where a model family keeps its gate rows.

    Attributes:
        model_type: `model_type` in config.json.
        gate: name of the gate matrix in the file, with `{block}`; shape [rows, hidden size].
    """

    model_type: str
    gate: str


LAYOUTS = {
    model_type: GateLayout(model_type, DENSE_GATED)
    for model_type in (
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma",
        "gemma2",
        "gemma3_text",
    )
}


@dataclass(frozen=True)
class GateMatrix:
    """One gate matrix of a checkpoint.

    Attributes:
        tensor: its name in the file.
        block: number of the block, from 0.
        rows: how many neurons it has.
        hidden_size: length d of a row.
        dtype: safetensors' name of the element type.
    """

    tensor: str
    block: int
    rows: int
    hidden_size: int
    dtype: str


def find_gate_matrices(checkpoint: Checkpoint) -> tuple[GateMatrix, ...]:
    """Find the gate matrices of all blocks, in block order.

    Raises:
        UnsupportedModelError: unknown family, quantised weights, or a gate matrix that is
            missing, not two-dimensional or of another width than the configuration says.
    """
    layout = _layout(checkpoint)
    config = checkpoint.config
    pattern = re.compile(re.escape(layout.gate).replace(r"\{block\}", r"(0|[1-9]\d{0,5})") + r"\Z")
    found = {}
    for name in checkpoint.tensors:
        if match := pattern.match(name):
            found[int(match.group(1))] = name
    blocks = config.get("num_hidden_layers")
    # Lengths first: a hostile configuration may claim 10^15 blocks.
    if (
        type(blocks) is not int
        or len(found) != blocks
        or set(found) != set(range(blocks))
        or not found
    ):
        raise UnsupportedModelError(
            f"{checkpoint.directory}: found gate matrices of {len(found)} blocks, expected "
            f"{blocks!r} as num_hidden_layers says; looked for {layout.gate}, the file has "
            f"{_sample(checkpoint)}"
        )
    return tuple(_gate_matrix(checkpoint, found[block], block) for block in range(blocks))


def _layout(checkpoint: Checkpoint) -> GateLayout:
    config = checkpoint.config
    model_type = config.get("model_type")
    if "quantization_config" in config:
        raise UnsupportedModelError(
            f"{checkpoint.directory}: its weights are quantised; edit the full-precision "
            "checkpoint that they were made from"
        )
    layout = LAYOUTS.get(model_type) if isinstance(model_type, str) else None
    if layout is None:
        raise UnsupportedModelError(
            f"{checkpoint.directory}: no known gated MLP in model type {model_type!r}; known: "
            f"{', '.join(sorted(LAYOUTS))}; the file has {_sample(checkpoint)}"
        )
    return layout


def _gate_matrix(checkpoint: Checkpoint, name: str, block: int) -> GateMatrix:
    tensor = checkpoint.tensors[name]
    hidden_size = checkpoint.config.get("hidden_size")
    if len(tensor.shape) != 2 or tensor.shape[1] != hidden_size or 0 in tensor.shape:
        raise UnsupportedModelError(
            f"{checkpoint.directory}: {name} has shape {list(tensor.shape)}; expected "
            f"[rows, {hidden_size}] as hidden_size says"
        )
    if tensor.dtype not in DTYPES:
        raise UnsupportedModelError(
            f"{checkpoint.directory}: {name} is stored as {tensor.dtype}; expected "
            f"{', '.join(DTYPES)} (edit the full-precision checkpoint)"
        )
    return GateMatrix(name, block, tensor.shape[0], tensor.shape[1], tensor.dtype)


def _sample(checkpoint: Checkpoint, count: int = 3) -> str:
    names = sorted(name for name in checkpoint.tensors if "mlp" in name or "feed" in name)
    names = names or sorted(checkpoint.tensors)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more if names else "no tensors"
