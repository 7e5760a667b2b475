"""The memory that a run takes, of a loaded model or of one whose weights were not read."""

from modelsurgery.data import demo
from modelsurgery.model.activations.losses import Reader, graph_bytes_per_token
from modelsurgery.model.activations.moments import moment_bytes
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.loading import load_without_weights
from modelsurgery.pipeline.recipe import Recipe

PROGRAM_BYTES = 700 << 20  # python, torch, transformers and their buffers


def planned_memory(recipe: Recipe, *, on_gpu: bool = False) -> int:
    """Peak of a run, in bytes, about; reads the configuration of the model and no weights.

    Args:
        recipe: its model, dtype and rule.
        on_gpu: whether the run has a GPU, where weights stay in their stored dtype.

    Raises:
        SurgeryError: as `load_model` raises before weights are read.
    """
    place = demo.demo_model_path() if recipe.is_demo_model else recipe.model
    dtype = recipe.dtype or (None if on_gpu else "float32")
    return peak_bytes(recipe, load_without_weights(place, dtype=dtype, revision=recipe.revision))


def peak_bytes(recipe: Recipe, model: LanguageModel) -> int:
    """Peak of a run of a recipe with its model, in bytes, about."""
    weights = int(model.model.get_memory_footprint())
    working = graph_bytes_per_token(model) * Reader(model).batch_tokens
    moments = 0
    if recipe.chosen_rule != "paper":  # all second moments, and one of them being solved with
        widths = {gate.tensor: gate.hidden_size for gate in model.gates}.values()
        sizes = [moment_bytes(width, model.model.dtype.itemsize) for width in widths]
        moments = sum(kept for kept, _ in sizes)
        working = max(working, *(solving for _, solving in sizes))
    return PROGRAM_BYTES + weights + moments + working
