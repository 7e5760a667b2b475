"""Losses of texts and their gradients by activations, in bounded memory.

No weight asks for a gradient: the graph begins at the embeddings. The head's part of the loss goes
forward and back for a few positions at a time, since logits are the largest tensors of all.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from transformers.modeling_layers import GradientCheckpointingLayer

from modelsurgery.apply.loaded_weights import available_bytes, is_offloaded
from modelsurgery.model.activations.texts import TextBatch
from modelsurgery.model.halves import Halves
from modelsurgery.model.language_model import LanguageModel

LOGITS_AT_A_TIME = 1 << 23  # values; a few tensors of this size in f32 are alive at once
ACTIVATION_BYTES = 1 << 30  # of a CPU's memory for the graph of one batch
ACTIVATION_SHARE = 0.5  # of a GPU's free memory
LEAST_TOKENS, MOST_TOKENS = 128, 8192


class Reader:
    """Reads batches forward and backward.

    Attributes:
        batch_tokens: tokens in one batch, padding included.
        checkpointing: whether the activations of each block are computed again on the way back.
    """

    def __init__(
        self, model: LanguageModel, batch_tokens: int | None = None, *, checkpointing: bool = False
    ) -> None:
        """Choose the size of batches; None takes what the memory holds."""
        self._model = model
        # Where weights are offloaded, the graph would keep those of all blocks.
        self.checkpointing = checkpointing or is_offloaded(model.model)
        self._halves = Halves(model.model)
        self._vocabulary = model.model.config.get_text_config().vocab_size
        self.batch_tokens = batch_tokens or _fitting_tokens(model, self.checkpointing)

    def backward(self, batch: TextBatch, *, drawn: int | None = None) -> float:
        """Send the gradient of a batch's loss back through the model; the loss, in nats.

        It is summed over predicted tokens, whose labels the model draws itself with a seed `drawn`.
        """
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            embeddings = self._model.model.get_input_embeddings()
            stack.enter_context(embeddings.register_forward_hook(_beginning_graph))
            if self.checkpointing:
                stack.enter_context(_recomputing_blocks(self._model.model))
            states = self._halves.last_states(batch.inputs)[batch.predicting]
            targets = batch.inputs["input_ids"][batch.predicted].to(states.device)
            loss, gradient = self._head(states.detach(), targets, drawn)
            states.backward(gradient)
        return loss

    def _head(
        self, states: torch.Tensor, targets: torch.Tensor, drawn: int | None
    ) -> tuple[float, torch.Tensor]:
        """Summed loss of states [p, d] and its gradient by them."""
        generator = None
        if drawn is not None:
            generator = torch.Generator(states.device).manual_seed(drawn)
        gradient, total = torch.empty_like(states), 0.0
        step = max(1, LOGITS_AT_A_TIME // self._vocabulary)
        for start in range(0, len(states), step):
            here = slice(start, start + step)
            some = states[here].requires_grad_()
            logits = self._halves.logits(some).float()
            aims = targets[here]
            if generator is not None:
                shares = logits.detach().softmax(-1)
                aims = torch.multinomial(shares, 1, generator=generator).squeeze(-1)
            loss = cross_entropy(logits, aims, reduction="sum")
            (gradient[here],) = torch.autograd.grad(loss, some)
            total += float(loss.detach())
        return total, gradient


def _fitting_tokens(model: LanguageModel, checkpointing: bool) -> int:
    """Tokens whose graph fits the memory that one batch may take."""
    per_token = graph_bytes_per_token(model, checkpointing=checkpointing)
    tokens = min(
        available_bytes(device, ACTIVATION_BYTES, ACTIVATION_SHARE) // (per_token * share)
        for device, share in model.block_shares.items()
    )
    return max(LEAST_TOKENS, min(int(tokens), MOST_TOKENS))


def graph_bytes_per_token(model: LanguageModel, *, checkpointing: bool) -> int:
    """About how much memory a token's graph takes between the forward and the backward pass.

    A block keeps about 14 tensors of the hidden size and 5 of each MLP that a token passes
    (measured on Llama blocks; others are near).
    """
    config = model.model.config.get_text_config()
    width, blocks = int(config.hidden_size), model.layer_count
    active = sum(gate.rows for gate in model.gates if gate.expert <= 0) / blocks
    experts = getattr(config, "num_experts_per_tok", None) or 1
    block = 14 * width + 5 * active * experts
    kept = blocks * width + block if checkpointing else blocks * block
    return int(kept * model.model.dtype.itemsize)


def _beginning_graph(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
    return output.requires_grad_()


@contextmanager
def _recomputing_blocks(model: Any) -> Iterator[None]:
    """Let transformers' blocks keep their inputs alone, and compute the rest again.

    They do so in training only, which is said of the block itself and not of what is inside it:
    no dropout begins.
    """
    blocks = [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)]
    before = [(one.training, one.gradient_checkpointing) for one in blocks]
    for one in blocks:
        one.training, one.gradient_checkpointing = True, True
        vars(one)["_gradient_checkpointing_func"] = _recomputed
    try:
        yield
    finally:
        for one, (training, checkpointing) in zip(blocks, before, strict=True):
            one.training, one.gradient_checkpointing = training, checkpointing
            del vars(one)["_gradient_checkpointing_func"]


def _recomputed(function: Any, *given: Any) -> Any:
    # To the end of the block: what is stopped inside a module would leave its offloaded weights.
    with set_checkpoint_early_stop(False):
        return checkpoint(function, *given, use_reentrant=False)
