"""The memory that a run takes, of a loaded model or of one whose weights were not read."""

from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer

from modelsurgery.apply.loaded_weights import disk_bytes
from modelsurgery.data import demo
from modelsurgery.model.activations.losses import Reader, graph_bytes_per_token
from modelsurgery.model.activations.moments import moment_bytes
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.loading import load_without_weights
from modelsurgery.pipeline.recipe import Recipe

PROGRAM_BYTES = 700 << 20  # python, torch, transformers and their buffers


def planned_memory(recipe: Recipe, *, on_gpu: bool = False) -> int:
    """Peak of a run, in bytes, about; reads the configuration of the model and no weights.

    On a GPU weights stay in their stored dtype.

    Raises:
        SurgeryError: as `load_model` raises before weights are read.
    """
    place = demo.demo_model_path() if recipe.is_demo_model else recipe.model
    dtype = recipe.dtype or (None if on_gpu else "float32")
    return peak_bytes(recipe, load_without_weights(place, dtype=dtype, revision=recipe.revision))


def peak_bytes(recipe: Recipe, model: LanguageModel) -> int:
    """Peak of a run of a recipe with its model, in bytes, about."""
    reader = Reader(model)
    working = graph_bytes_per_token(model, checkpointing=reader.checkpointing) * reader.batch_tokens
    moments = 0
    if recipe.chosen_rule != "paper":  # all second moments, and one of them being solved with
        widths = {gate.tensor: gate.hidden_size for gate in model.gates}.values()
        sizes = [moment_bytes(width, model.model.dtype.itemsize) for width in widths]
        moments = sum(kept for kept, _ in sizes)
        working = max(working, *(solving for _, solving in sizes))
    return PROGRAM_BYTES + _weight_bytes(model.model) + moments + working


def _weight_bytes(model: Any) -> int:
    """Memory of the weights, on all devices; of those on disk, a block at a time is there."""
    on_disk = disk_bytes(model)
    blocks = (one for one in model.modules() if isinstance(one, GradientCheckpointingLayer))
    largest = max(map(disk_bytes, blocks), default=on_disk) if on_disk else 0
    return int(model.get_memory_footprint()) - on_disk + largest
