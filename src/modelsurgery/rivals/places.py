"""Where in a model other methods reach in, by path of the module."""

import torch
from transformers.pytorch_utils import Conv1D

from modelsurgery.errors import UnsupportedModelError
from modelsurgery.model.blocks import block_list
from modelsurgery.model.language_model import LanguageModel

# Projections that write into the residual stream, as families call them.
ATTENTION_OUT = ("o_proj", "out_proj", "dense", "c_proj", "wo")
MLP_OUT = ("down_proj", "fc2", "fc_out", "c_proj", "dense_4h_to_h", "w2", "proj_2", "output_linear")
ROUTERS = ("gate", "router", "shared_expert_gate")


def block_paths(model: LanguageModel) -> tuple[str, ...]:
    """Paths of all blocks, first to last."""
    _, blocks = block_list(model)
    names = {id(module): name for name, module in model.model.named_modules()}
    return tuple(names[id(block)] for block in blocks)


def linear_layers(model: LanguageModel, block: str) -> tuple[str, ...]:
    """Paths of all linear layers inside a block."""
    return tuple(
        f"{block}.{name}"
        for name, module in model.model.get_submodule(block).named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
    )


def attention_layers(model: LanguageModel, block: str) -> tuple[str, ...]:
    """Paths of the linear layers of a block's attention; none where it has no attention."""
    return tuple(path for path in linear_layers(model, block) if _is_attention(path, block))


def mlp_layers(model: LanguageModel, block: str) -> tuple[str, ...]:
    """Paths of the linear layers of a block's MLP, a router of experts left out.

    Raises:
        UnsupportedModelError: there is no one projection through which it writes.
    """
    mlp_out(model, block)
    return tuple(
        path
        for path in linear_layers(model, block)
        if not _is_attention(path, block) and path.rpartition(".")[2] not in ROUTERS
    )


def late_norms(model: LanguageModel, block: str) -> tuple[str, ...]:
    """Paths of a block's layer norms behind its attention.

    Those that are called so (post_attention_layernorm), else all but the first.

    Raises:
        UnsupportedModelError: the block has no layer norm of its own.
    """
    norms = _norms(model, block, "layer norm")
    return tuple(path for path in norms if "post" in path) or norms[1:] or norms


def final_norm(model: LanguageModel) -> str:
    """Path of the norm behind the last block.

    Raises:
        UnsupportedModelError: there is none beside the blocks.
    """
    owner, _ = block_list(model)
    (inside,) = (name for name, module in model.model.named_modules() if module is owner)
    return _norms(model, inside, "norm behind the blocks")[-1]


def attention_out(model: LanguageModel, block: str) -> str:
    """Path of the projection through which a block's attention writes.

    Raises:
        UnsupportedModelError: there is none under a known name, or several.
    """
    return _one(model, block, ATTENTION_OUT, in_mlp=False)


def mlp_out(model: LanguageModel, block: str) -> str:
    """Path of the projection through which a block's MLP writes.

    Raises:
        UnsupportedModelError: there is none under a known name, or several.
    """
    return _one(model, block, MLP_OUT, in_mlp=True)


def writers(model: LanguageModel) -> tuple[str, ...]:
    """Both of all blocks."""
    blocks = block_paths(model)
    return tuple(find(model, block) for block in blocks for find in (attention_out, mlp_out))


def _one(model: LanguageModel, block: str, names: tuple[str, ...], *, in_mlp: bool) -> str:
    width = model.model.config.get_text_config().hidden_size
    found = []
    for path in linear_layers(model, block):
        name = path.rpartition(".")[2]
        weight = model.model.get_submodule(path).weight
        if name in names and _is_attention(path, block) != in_mlp and width in weight.shape:
            found.append(path)
    if len(found) != 1:
        what = "MLP" if in_mlp else "attention"
        raise UnsupportedModelError(
            f"{block}: {len(found)} projections look like the one through which the {what} writes; "
            "expected one. Leave this method out with --method"
        )
    return found[0]


def _norms(model: LanguageModel, owner: str, what: str) -> tuple[str, ...]:
    """Paths of the norms that belong to a module itself, in their order; at least one."""
    norms = tuple(
        f"{owner}.{name}"
        for name, module in model.model.get_submodule(owner).named_children()
        if "norm" in type(module).__name__.lower()
    )
    if not norms:
        raise UnsupportedModelError(
            f"{owner}: no {what}; expected one. Leave this method out with --method"
        )
    return norms


def _is_attention(path: str, block: str) -> bool:
    inside, _, _ = path.removeprefix(f"{block}.").rpartition(".")
    return "att" in inside.lower()
