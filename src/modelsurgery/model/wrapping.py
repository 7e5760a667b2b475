"""Taking a transformers model that somebody else has loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download

from modelsurgery.apply.in_memory import loaded_gates, mark_dequantized
from modelsurgery.apply.loaded_weights import rows_in, stored_values
from modelsurgery.checkpoint.directory import Checkpoint, open_checkpoint
from modelsurgery.checkpoint.layouts import GateLayout, find_gate_matrices
from modelsurgery.checkpoint.rows import Weights
from modelsurgery.errors import CheckpointError, ModelNotFoundError
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.loading import prepare_tokenizer


def wrap(
    model: Any,
    tokenizer: Any,
    *,
    checkpoint: Path | str | None = None,
    layout: GateLayout | None = None,
    chat_template: str | None = None,
) -> LanguageModel:
    """Use a transformers model that is already loaded, on any devices (`device_map`).

    The model is set to eval mode and its parameters to `requires_grad=False`. Nothing is copied.
    Edits are bound to the checkpoint that the model was loaded from, so its weights must be those
    of the files.

    Args:
        model: a transformers causal language model, not quantized.
        tokenizer: its tokenizer.
        checkpoint: directory that it was loaded from; by default the model's `name_or_path`.
        layout: where the gate rows are, for an unsupported model family.
        chat_template: name of the chat template, if there are several; None means `default`.

    Returns:
        The model, ready for the other functions.

    Raises:
        ModelNotFoundError: the files of the model were not found.
        CheckpointError: its weights are not those of the checkpoint.
        RecipeError: the chat template is unknown.
        UnsupportedModelError: the family is unknown, or the weights are quantized.

    Example:
        >>> hf = AutoModelForCausalLM.from_pretrained(name, device_map="auto")  # doctest: +SKIP
        >>> model = wrap(hf, AutoTokenizer.from_pretrained(name))  # doctest: +SKIP
    """
    known = open_checkpoint(_directory_of(model, checkpoint))
    _check_weights(model, known, layout)
    prepare_tokenizer(tokenizer, chat_template)
    if known.is_dequantized:
        mark_dequantized(model)
    return LanguageModel(
        model.eval().requires_grad_(False),
        tokenizer,
        known,
        layout,
        template_name=chat_template,
    )


def _directory_of(model: Any, checkpoint: Path | str | None) -> Path:
    name = str(checkpoint or getattr(model, "name_or_path", "") or "")
    if name and Path(name).is_dir():
        return Path(name)
    try:
        if not name:
            raise FileNotFoundError("it was not loaded from files")
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError) as error:  # what the Hub's errors are
        raise ModelNotFoundError(
            f"no files of the model at {name!r}; save it with save_pretrained(DIR) and give "
            "checkpoint=DIR"
        ) from error


def _check_weights(model: Any, checkpoint: Checkpoint, layout: GateLayout | None) -> None:
    """Compare rows of the first and of the last gate matrix with the files."""
    loaded = {gate.address: gate for gate in loaded_gates(model, layout)}
    gates = find_gate_matrices(checkpoint, layout)
    with Weights(checkpoint) as weights:
        for gate in (gates[0], gates[-1]):
            rows = np.array([0, gate.rows - 1])
            stored = torch.from_numpy(weights.read(gate.view, rows).astype(np.float32))
            here, found = loaded.get(gate.address), None
            if here is not None and here.view.columns == gate.view.columns:
                held = rows_in(stored_values(model, here.tensor), here.view)
                found = held[torch.from_numpy(rows).to(held.device)]
            if found is None or not torch.equal(found.cpu(), stored.to(found.dtype)):
                raise CheckpointError(
                    f"{checkpoint.directory}: the loaded model has other weights than these "
                    "files; expected the model as it was loaded (save a changed one with "
                    "save_pretrained(DIR) and give checkpoint=DIR)"
                )
