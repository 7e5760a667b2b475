"""What a direction says in tokens: vectors through the final norm and the unembedding.

The logit lens: a vector v takes the place of the hidden state before the final norm, and the model
itself computes the rest, so that every family's norm, head, scale and soft-cap are its own. v is
scaled to a root mean square of 1, the size that the norm gives, and the logits of the zero vector
are subtracted: what is left belongs to v and not to the biases, and -v gives the opposite.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from modelsurgery.errors import UnsupportedModelError
from modelsurgery.inside.tokens import Token, named_tokens
from modelsurgery.models import LanguageModel


@dataclass(frozen=True)
class Ends:
    """The tokens at both ends of a vector.

    Attributes:
        toward: the tokens that it makes most likely, highest logit first.
        away: the tokens that it makes least likely, lowest logit first.
    """

    toward: tuple[Token, ...]
    away: tuple[Token, ...]


def read_tokens(
    model: LanguageModel, vectors: torch.Tensor, counts: Sequence[int]
) -> tuple[Ends, ...]:
    """The tokens at both ends of each vector, in one pass over the unembedding.

    Args:
        model: the model.
        vectors: [n, d] float32, finite; a vector of zeros has only logits of zero.
        counts: how many tokens to give of each vector.

    Raises:
        UnsupportedModelError: nothing follows the last block, so no norm can be found.
    """
    logits = token_logits(model, vectors)
    logits = logits[:, : len(model.tokenizer)]  # heads are padded beyond the tokens that there are
    found = []
    for row, count in zip(logits, counts, strict=True):
        for sign in (1, -1):
            # Sorted whole, because topk breaks ties as the machine likes.
            order = torch.argsort(row * -sign, stable=True)[:count]
            found.append([(int(one), float(row[one])) for one in order])
    named = named_tokens(model.tokenizer, [token for one in found for token in one])
    ends, start = [], 0
    for pair in zip(found[::2], found[1::2], strict=True):
        middle = start + len(pair[0])
        stop = middle + len(pair[1])
        ends.append(Ends(named[start:middle], named[middle:stop]))
        start = stop
    return tuple(ends)


def token_logits(model: LanguageModel, vectors: torch.Tensor) -> torch.Tensor:
    """Logits [n, vocabulary] f32 on the CPU of vectors [n, d], less those of the zero vector.

    Raises:
        UnsupportedModelError: nothing follows the last block.
    """
    width = vectors.shape[1]
    norms = vectors.norm(dim=1, keepdim=True)
    units = vectors / norms.clamp_min(torch.finfo(torch.float32).tiny) * width**0.5
    states = torch.cat([units, torch.zeros(1, width)]).unsqueeze(1)
    ids = torch.zeros(len(states), 1, dtype=torch.long, device=model.device)
    with _in_place_of_the_last_state(model, states) as used, torch.inference_mode():
        answer = model.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    if not used:
        raise UnsupportedModelError(
            f"{model.checkpoint.directory}: nothing follows the last block; expected a final norm"
        )
    logits: torch.Tensor = answer.logits[:, -1].float().cpu()
    return logits[:-1] - logits[-1]


class _in_place_of_the_last_state:  # noqa: N801
    pass
