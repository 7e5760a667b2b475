"""Which tensors of a checkpoint hold gate rows, per model family, as data (`families.yaml`).

A gate row W1[i] decides neuron i of a gated MLP, act(W1[i] · x) * (up[i] · x), or of a plain one,
act(W1[i] · x) (equation 2 of the paper). A family that is not listed, a quantized one, or one of
which only a part is found is refused by name: nothing is skipped silently.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.gguf_files import ARCHITECTURE_KEY
from modelsurgery.checkpoint.layouts.format import GateLayout as GateLayout
from modelsurgery.checkpoint.layouts.format import built_in_layouts as built_in_layouts
from modelsurgery.checkpoint.layouts.format import gguf_layouts
from modelsurgery.checkpoint.layouts.format import layout_from_json as layout_from_json
from modelsurgery.checkpoint.layouts.format import load_layout as load_layout
from modelsurgery.checkpoint.layouts.matching import Address as Address
from modelsurgery.checkpoint.layouts.matching import GateMatrix as GateMatrix
from modelsurgery.checkpoint.layouts.matching import Shaped as Shaped
from modelsurgery.checkpoint.layouts.matching import described_names
from modelsurgery.checkpoint.layouts.matching import match_layout as match_layout
from modelsurgery.errors import UnsupportedModelError

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
    _refuse_quantized(checkpoint)
    tensors = {name: Shaped(one.shape, one.dtype) for name, one in checkpoint.tensors.items()}
    chosen = layout or choose_layout(checkpoint)
    return match_layout(chosen, tensors, checkpoint.config, str(checkpoint.place))


def choose_layout(checkpoint: Checkpoint) -> GateLayout:
    """The layout of a checkpoint's model type.

    Raises:
        UnsupportedModelError: the family is not known.
    """
    config, tensors, where = checkpoint.config, checkpoint.tensors, str(checkpoint.place)
    if checkpoint.gguf is None:
        return layout_for(config, tensors, where)
    kind = "GGUF files of architecture"
    return _layout(gguf_layouts(), kind, config[ARCHITECTURE_KEY], tensors, where)


def layout_for(config: dict[str, Any], tensors: Mapping[str, object], where: str) -> GateLayout:
    """The layout of a model type.

    Raises:
        UnsupportedModelError: the family is not known.
    """
    return _layout(built_in_layouts(), "model type", config.get("model_type"), tensors, where)


def _layout(
    known: Mapping[str, GateLayout], kind: str, name: Any, tensors: Iterable[str], where: str
) -> GateLayout:
    if not isinstance(name, str) or name not in known:
        raise UnsupportedModelError(
            f"{where}: no layout for {kind} {name!r}; it has {described_names(tensors)}; describe "
            f"it with --layout, or use a model of {kind.split()[-1]} {', '.join(sorted(known))}"
        )
    return known[name]


def _refuse_quantized(checkpoint: Checkpoint) -> None:
    texts = checkpoint.config.get("text_config")
    signs = []
    for settings in (checkpoint.config, texts if isinstance(texts, dict) else {}):
        for key in QUANTISATION_KEYS:
            if key in settings:
                content = settings[key]
                method = content.get("quant_method") if isinstance(content, dict) else None
                signs.append(str(method or key))
    for ending, method in QUANTISED_NAMES:
        if any(name.endswith(ending) for name in checkpoint.tensors):
            signs.append(method)
    if signs:
        raise UnsupportedModelError(
            f"{checkpoint.place}: its weights are quantized ({signs[0]}); edit the full-precision "
            "checkpoint that they were made from; it has "
            f"{described_names(checkpoint.tensors)}"
        )
