"""The blocks of a loaded model, in order."""

import torch

from modelsurgery.apply.in_memory import loaded_gates
from modelsurgery.errors import UnsupportedModelError
from modelsurgery.model.language_model import LanguageModel


def block_list(model: LanguageModel) -> tuple[torch.nn.Module, torch.nn.ModuleList]:
    """The list of a model's blocks, and the module that it belongs to.

    Raises:
        UnsupportedModelError: the model's parameters are not what its layout says, or its blocks
            are not in a list.
    """
    gate = loaded_gates(model.model, model.layout)[0]
    parts = gate.tensor.split(".")
    place = parts.index(str(gate.block))
    owner = model.model.get_submodule(".".join(parts[: place - 1]))
    blocks = getattr(owner, parts[place - 1])
    if not isinstance(blocks, torch.nn.ModuleList):
        raise UnsupportedModelError(
            f"{'.'.join(parts[:place])} is a {type(blocks).__name__}; expected a list of blocks"
        )
    return owner, blocks
