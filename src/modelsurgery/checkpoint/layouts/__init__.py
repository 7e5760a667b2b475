"""Which tensors of a checkpoint hold gate rows, per model family, as data (`families.yaml`).

A gate row W1[i] decides neuron i of a gated MLP, act(W1[i] · x) * (up[i] · x), or of a plain one,
act(W1[i] · x) (equation 2 of the paper). A family that is not listed, a quantized one, or one of
which only a part is found is refused by name: nothing is skipped silently.
"""

from collections.abc import Mapping
from typing import Any

from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.gguf_files import ARCHITECTURE_KEY
from modelsurgery.checkpoint.layouts.format import (
    GateLayout,
    built_in_layouts,
    gguf_layouts,
    layout_from_json,
    load_layout,
)
from modelsurgery.checkpoint.layouts.matching import (
    Address,
    GateMatrix,
    Shaped,
    described_names,
    match_layout,
)
from modelsurgery.errors import UnsupportedModelError

__all__ = [
    "Address",
    "GateLayout",
    "GateMatrix",
    "Shaped",
    "built_in_layouts",
    "choose_layout",
    "find_gate_matrices",
    "layout_for",
    "layout_from_json",
    "load_layout",
    "match_layout",
]

QUANTISATION_KEYS = ("quantization_config", "compression_config")
# Endings of names that only quantized weights have: GPTQ and AWQ, bitsandbytes, FP8, MXFP4.
QUANTISED_NAMES = (
    (".qweight", "GPTQ or AWQ"),
    (".absmax", "bitsandbytes"),
    (".SCB", "bitsandbytes"),
    (".weight_scale", "FP8"),
    (".weight_scale_inv", "FP8"),
    (".weight_packed", "compressed-tensors"),
    ("_blocks", "MXFP4"),
)


def find_gate_matrices(
    checkpoint: Checkpoint, layout: GateLayout | None = None
) -> tuple[GateMatrix, ...]:
    """Find the gate matrices of all blocks.

    Args:
        checkpoint: the model.
        layout: where they are; by default the layout of the model type.

    Returns:
        The matrices, ordered by block, branch and expert.

    Raises:
        UnsupportedModelError: the family is unknown, the weights are quantized, or gate matrices
            are missing or do not have the shape that config.json says.

    Example:
        >>> len(find_gate_matrices(checkpoint))
        4
    """
    where = str(checkpoint.place)
    _refuse_quantized(checkpoint)
    tensors = {name: Shaped(one.shape, one.dtype) for name, one in checkpoint.tensors.items()}
    chosen = layout or choose_layout(checkpoint)
    return match_layout(chosen, tensors, checkpoint.config, where)


def choose_layout(checkpoint: Checkpoint) -> GateLayout:
    """The layout of a checkpoint's model type.

    Raises:
        UnsupportedModelError: the family is not known.
    """
    where = str(checkpoint.place)
    if checkpoint.gguf is None:
        return layout_for(checkpoint.config, checkpoint.tensors, where)
    architecture, known = checkpoint.config[ARCHITECTURE_KEY], gguf_layouts()
    if architecture not in known:
        raise UnsupportedModelError(
            f"{where}: no layout for GGUF files of architecture {architecture!r}; it has "
            f"{described_names(checkpoint.tensors)}; describe it with --layout, or use a model of "
            f"architecture {', '.join(sorted(known))}"
        )
    return known[architecture]


def layout_for(config: dict[str, Any], tensors: Mapping[str, object], where: str) -> GateLayout:
    """The layout of a model type.

    Raises:
        UnsupportedModelError: the family is not known.
    """
    model_type = config.get("model_type")
    known = built_in_layouts()
    layout = known.get(model_type) if isinstance(model_type, str) else None
    if layout is None:
        raise UnsupportedModelError(
            f"{where}: no layout for model type {model_type!r}; it has "
            f"{described_names(tensors)}; describe it with --layout, or use a model of type "
            f"{', '.join(sorted(known))}"
        )
    return layout


def _refuse_quantized(checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    texts = config.get("text_config")
    how = None
    for settings in (config, texts if isinstance(texts, dict) else {}):
        for key in QUANTISATION_KEYS:
            if key in settings:
                content = settings[key]
                method = content.get("quant_method") if isinstance(content, dict) else None
                how = how or str(method or key)
    for ending, method in QUANTISED_NAMES:
        if how is None and any(name.endswith(ending) for name in checkpoint.tensors):
            how = method
    if how is not None:
        raise UnsupportedModelError(
            f"{checkpoint.place}: its weights are quantized ({how}); edit the full-precision "
            "checkpoint that they were made from; it has "
            f"{described_names(checkpoint.tensors)}"
        )
