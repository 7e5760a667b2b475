"""What some modules read and write while the model reads texts."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from modelsurgery.model.activations.texts import TextBatch, TokenizedText, text_batches
from modelsurgery.model.hidden_states import BATCH_TOKENS
from modelsurgery.model.language_model import LanguageModel

# Is told of a batch, the path of a module, and what it read and wrote, [n, t, …] each.
Look = Callable[[TextBatch, str, torch.Tensor, torch.Tensor], None]


def watch_modules(
    model: LanguageModel, texts: Sequence[TokenizedText], paths: Iterable[str], look: Look
) -> None:
    """Read texts, and look at modules with one input and one output as they run.

    Args:
        model: the model, with whatever changes it at the moment.
        texts: those without a token that counts are left out.
        paths: of the modules.
        look: is called once a batch and module.
    """
    named = {path: model.model.get_submodule(path) for path in paths}
    for batch in text_batches(model, texts, BATCH_TOKENS):

        def hook_of(path: str, batch: TextBatch = batch) -> Callable[..., None]:
            def hook(_: Any, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
                look(batch, path, given[0], output)

            return hook

        with ExitStack() as stack, torch.inference_mode():
            for path, module in named.items():
                stack.callback(module.register_forward_hook(hook_of(path)).remove)
            model.decoder(**batch.inputs, use_cache=False)


def largest_outputs(
    model: LanguageModel, texts: Sequence[TokenizedText], paths: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Largest output over the tokens of each text that count, [n, width] f32 on the CPU by path."""
    found: dict[str, list[torch.Tensor]] = {path: [] for path in paths}

    def look(batch: TextBatch, path: str, _: torch.Tensor, written: torch.Tensor) -> None:
        left_out = ~batch.predicted.unsqueeze(-1).to(written.device)
        largest = written.float().masked_fill(left_out, -torch.inf).amax(1)
        found[path].append(largest.cpu())

    watch_modules(model, texts, paths, look)
    return {path: torch.cat(parts) for path, parts in found.items()}


def input_norms(
    model: LanguageModel, texts: Sequence[TokenizedText], paths: Sequence[str]
) -> dict[str, torch.Tensor]:
    """‖x_j‖₂ of each input over all tokens, padding left out, [in] f32 on the CPU by path."""
    squares: dict[str, torch.Tensor] = {}

    def look(batch: TextBatch, path: str, read: torch.Tensor, _: torch.Tensor) -> None:
        mask = batch.inputs["attention_mask"].bool().to(read.device)
        added = read[mask].double().square().sum(0).cpu()
        squares[path] = squares.get(path, torch.zeros_like(added)) + added

    watch_modules(model, texts, paths, look)
    return {path: one.sqrt().float() for path, one in squares.items()}
