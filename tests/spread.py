"""Tiny models whose blocks are spread over memory and disk by accelerate's device map."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from modelsurgery import LanguageModel, load_model
from modelsurgery.model.blocks import block_list
from tiny import tiny_tokenizer


def alternating_map(model: LanguageModel) -> dict[str, str]:
    """A device map that leaves every other block on disk, the first one too.

    Args:
        model: the same model on one device, which says what its modules are called.
    """
    _, blocks = block_list(model)
    prefix = next(name for name, module in model.model.named_modules() if module is blocks)
    named = [
        *model.model.named_parameters(remove_duplicate=False),
        *model.model.named_buffers(remove_duplicate=False),
    ]
    around = [name for name, _ in named if not name.startswith(f"{prefix}.")]
    return dict.fromkeys(around, "cpu") | {
        f"{prefix}.{number}": "cpu" if number % 2 else "disk" for number in range(len(blocks))
    }


def in_memory_and_spread(
    directory: Path, offload: Path, **options: Any
) -> tuple[LanguageModel, LanguageModel]:
    """A model on one device, and the same one with every other block on disk."""
    plain = replace(load_model(directory, **options), tokenizer=tiny_tokenizer())
    spread = load_model(directory, device_map=alternating_map(plain), offload=offload, **options)
    return plain, replace(spread, tokenizer=tiny_tokenizer())
