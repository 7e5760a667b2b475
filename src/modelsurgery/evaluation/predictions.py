"""What a model and its edits predict at each token of a batch, in bounded memory.

The logits of a batch are tokens × vocabulary values, and several tensors of that size are alive
while they are reduced: 2,048 tokens and a vocabulary of 262,144 would take gigabytes. So the
decoder reads the whole batch, its last hidden states are kept, and the head is applied to a few
positions of all sides at a time. The model's own code does both, so that soft-caps and scales are
those of its family.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from modelsurgery.apply.in_memory import edited, edited_per_part
from modelsurgery.edit.edit import Edit
from modelsurgery.model.halves import Batch, Halves

LOGITS_AT_A_TIME = 1 << 24  # 64 MB in f32; about four tensors of this size are alive at once

Side = Sequence[Edit]  # edits of one side, applied together; none is the base model


@dataclass(frozen=True)
class Predictions:
    """How s sides predict p tokens of a batch, in the order of the batch, on the CPU."""

    losses: torch.Tensor  # −log P(token), nats, [s, p] f64
    # KL(first side ‖ side) at the token, nats, [s, p] f64; exactly 0 for the first.
    divergences: torch.Tensor
    hits: torch.Tensor  # whether the token is the most probable one, [s, p] bool
    texts: torch.Tensor  # which row of the batch a token is in, [p] int64
    # Last hidden states that predict the token, [s, p, d]; these stay on its device.
    states: torch.Tensor


def predict(
    model: Any,
    batch: Batch,
    sides: Sequence[Side],
    *,
    wanted: torch.Tensor | None = None,
    first: torch.Tensor | None = None,
    together: bool = False,
) -> Predictions:
    """How the base model and edits of it predict the tokens of a batch.

    Args:
        model: a transformers model with a language-model head, without edits.
        batch: token ids and attention mask, [n, t], padded on the right.
        sides: at least one; divergences are those from the first.
        wanted: predicted tokens that count, [n, t] bool, the first of each row left out; None takes
            all that are not padding.
        first: states [p, d] of the first side, where they are known: only the others
            read the batch.
        together: let all sides share one forward pass (`edited_per_part`), not one each.

    Raises:
        UnsupportedModelError: the model's head can't be told from its decoder.
        EditMismatchError: the model has not the rows that an edit was made for.
    """
    ids = batch["input_ids"]
    chosen = batch["attention_mask"].bool() if wanted is None else wanted
    chosen = chosen[:, 1:]
    halves = Halves(model)
    read = _states_together if together else _states_in_turn
    if first is None or len(sides) == 1:
        states = read(halves, batch, sides, chosen)
    else:
        states = torch.cat([first.unsqueeze(0), read(halves, batch, sides[1:], chosen)])
    vocabulary = model.config.get_text_config().vocab_size
    losses, divergences, hits = reduce_logits(states, ids[:, 1:][chosen], halves.logits, vocabulary)
    return Predictions(losses, divergences, hits, chosen.nonzero()[:, 0].cpu(), states)


def reduce_logits(
    states: torch.Tensor,
    targets: torch.Tensor,
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    vocabulary: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Losses, divergences from the first side, and hits, as `Predictions` has them.

    Of last hidden states [s, p, d] that shall predict the targets [p]. `logits_of` gives the logits
    [m, v] of states [m, d]; the vocabulary v decides how many positions are taken at a time.
    """
    sides, count, _ = states.shape
    losses = torch.zeros(sides, count, dtype=torch.float64)
    divergences = torch.zeros(sides, count, dtype=torch.float64)
    hits = torch.zeros(sides, count, dtype=torch.bool)
    step = max(1, LOGITS_AT_A_TIME // (vocabulary * sides))
    for start in range(0, count, step):
        here = slice(start, start + step)
        aims = targets[here].unsqueeze(-1)
        logits = logits_of(states[:, here].flatten(0, 1)).unflatten(0, (sides, -1))
        base = base_shares = None
        for side, of_side in enumerate(logits):
            hits[side, here] = (of_side.argmax(-1, keepdim=True) == aims).squeeze(-1).cpu()
            told = of_side.float().log_softmax(-1)
            losses[side, here] = -told.gather(-1, aims).squeeze(-1).double().cpu()
            if base is None or base_shares is None:
                base, base_shares = told, told.exp()
            else:
                apart = (base_shares * (base - told)).sum(-1)
                divergences[side, here] = apart.double().cpu()
    return losses, divergences, hits


def last_logits(model: Any, batch: Batch, count: int) -> torch.Tensor:
    """Logits [n, count, v] of the last `count` positions of a batch, and of no others."""
    halves = Halves(model)
    states = halves.last_states(batch)[:, -count:]
    rows, positions, _ = states.shape
    return halves.logits(states.flatten(0, 1)).view(rows, positions, -1)


def _states_in_turn(
    halves: Halves, batch: Batch, sides: Sequence[Side], chosen: torch.Tensor
) -> torch.Tensor:
    """States that predict the chosen tokens, [s, p, d]; a forward pass a side, rows edited."""
    found = []
    for edits in sides:
        with edited(halves.model, *edits):
            found.append(halves.last_states(batch)[:, :-1][chosen])
    return torch.stack(found)


def _states_together(
    halves: Halves, batch: Batch, sides: Sequence[Side], chosen: torch.Tensor
) -> torch.Tensor:
    """The same from one forward pass, in which each side has a part of the batch."""
    repeated = {name: one.repeat(len(sides), 1) for name, one in batch.items()}
    with edited_per_part(halves.model, sides):
        states = halves.last_states(repeated)
    return torch.stack([part[:, :-1][chosen] for part in states.unflatten(0, (len(sides), -1))])
