"""What a direction says in tokens: vectors through the final norm and the unembedding.

The logit lens: a vector v takes the place of the hidden state before the final norm, and the model
itself computes the rest, so that norm, head, scale and soft-cap are those of its family. v is
scaled to a root mean square of 1, the size that the norm gives, and the logits of the zero vector
are subtracted: what is left belongs to v and not to biases, and -v gives the opposite.

Tokens are ranked by their logits as if all rows of the unembedding had the mean length. Rows of
tokens that training hardly met may be three times as long, and would head every list.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from modelsurgery.apply.loaded_weights import stored_values
from modelsurgery.errors import UnsupportedModelError
from modelsurgery.interpret.tokens import Token, named_tokens
from modelsurgery.model.blocks import block_list
from modelsurgery.model.language_model import LanguageModel

SHORTEST = 0.5  # of the mean length of a row; what is shorter counts as this, or noise would lead
ROWS_AT_A_TIME = 8192


@dataclass(frozen=True)
class Ends:
    """The tokens at both ends of a vector."""

    toward: tuple[Token, ...]  # the tokens that it makes most likely, highest logit first
    away: tuple[Token, ...]  # the tokens that it makes least likely, lowest logit first


def read_tokens(
    model: LanguageModel, vectors: torch.Tensor, counts: Sequence[int]
) -> tuple[Ends, ...]:
    """The tokens at both ends of vectors [n, d] f32, finite, from one pass over the unembedding.

    `counts` says how many tokens to give at either end of each vector.

    Raises:
        UnsupportedModelError: nothing follows the last block, so there is no final norm.
    """
    logits = token_logits(model, vectors) / relative_lengths(model)
    logits = logits[:, : len(model.tokenizer)]  # heads are often padded
    found = [
        [(token, float(row[token])) for token in _highest(row * sign, count)]
        for row, count in zip(logits, counts, strict=True)
        for sign in (1, -1)
    ]
    named = iter(named_tokens(model.tokenizer, [entry for end in found for entry in end]))
    ends = [tuple(next(named) for _ in end) for end in found]
    return tuple(Ends(*pair) for pair in zip(ends[::2], ends[1::2], strict=True))


def token_logits(model: LanguageModel, vectors: torch.Tensor) -> torch.Tensor:
    """Logits [n, vocabulary] f32 on the CPU of vectors [n, d], less those of the zero vector.

    Raises:
        UnsupportedModelError: nothing follows the last block.
    """
    width = vectors.shape[1]
    smallest = torch.finfo(torch.float32).tiny
    units = vectors * (width**0.5 / vectors.norm(dim=1, keepdim=True).clamp_min(smallest))
    states = torch.cat([units, torch.zeros(1, width)]).unsqueeze(1)
    # A token for each vector goes through the blocks, so that every shape is one the model expects.
    ids = torch.zeros(len(states), 1, dtype=torch.long, device=model.device)
    mask = torch.ones_like(ids)
    with torch.inference_mode(), _last_state(model, states) as replaced:
        answer = model.model(input_ids=ids, attention_mask=mask, use_cache=False)
    if not replaced:
        raise UnsupportedModelError(
            f"{model.checkpoint.directory}: no module follows its last block; expected a final norm"
        )
    logits: torch.Tensor = answer.logits[:, -1].float().cpu()
    return logits[:-1] - logits[-1]


def relative_lengths(model: LanguageModel) -> torch.Tensor:
    """Length of each row of the unembedding over their mean, at least a half, [vocabulary] f32."""
    weight = stored_values(model.model.get_output_embeddings(), "weight")
    parts = [
        torch.linalg.vector_norm(part, dim=1, dtype=torch.float32)
        for part in weight.split(ROWS_AT_A_TIME)
    ]
    lengths = torch.cat(parts).cpu()
    return (lengths / lengths.mean()).clamp_min(SHORTEST)


@contextmanager
def _last_state(model: LanguageModel, states: torch.Tensor) -> Iterator[list[torch.nn.Module]]:
    """Let `states` take the place of what the last block gives; yields where it was put."""
    owner, blocks = block_list(model)
    passed: list[bool] = []
    replaced: list[torch.nn.Module] = []

    def arm(*_: object) -> None:
        passed.append(True)

    def replace(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
        if not passed or replaced:
            return None
        replaced.append(module)
        return (states.to(inputs[0].device, inputs[0].dtype), *inputs[1:])

    with ExitStack() as stack:
        stack.callback(blocks[-1].register_forward_hook(arm).remove)
        for module in owner.children():
            if module is not blocks:
                stack.callback(module.register_forward_pre_hook(replace).remove)
        yield replaced


def _highest(values: torch.Tensor, count: int) -> list[int]:
    """Places of the highest values, highest first; of equal ones the first place."""
    limit = values.topk(min(count, len(values))).values[-1]
    places: list[int] = (values >= limit).nonzero()[:, 0].tolist()
    return sorted(places, key=lambda place: (-float(values[place]), place))[:count]
