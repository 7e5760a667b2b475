"""Screening: what many edits of one model do to texts, with forward passes alone.

Nothing is generated. Several edits share each forward pass (`edited_per_part`), and where base and
edited model are compared token by token, the base model is one more part. A behavior's loss is a
calm measure: greedy rates on a few hundred prompts move by five points for no reason, this moves
smoothly.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, kl_div

from modelsurgery.apply.in_memory import edited, edited_per_part, takes_parts
from modelsurgery.chat_template import Text
from modelsurgery.edit import Edit
from modelsurgery.evaluation.language_modelling import BATCH_TOKENS, MAX_TOKENS
from modelsurgery.hidden_states import batches
from modelsurgery.models import LanguageModel
from modelsurgery.token_ids import Source, answer_ids

PARTS = 8  # edits that share a forward pass
Part = Sequence[Edit]  # edits of one part of a batch; none is the base model


@dataclass(frozen=True)
class Effect:
    """What an edit does to texts: rises of the mean loss per token in nats, and shares lost.

    Attributes:
        behavior: rise of the loss on texts that show the behavior.
        opposite: rise on their opposites.
        clean: rise on neutral text.
        divergence: mean KL(base ‖ edited) over all positions of neutral text, nats.
        capability_lost: share of the facts that greedy decoding no longer gets right, or where
            there are none of the next tokens of neutral text; negative where it gets more right.
        clean_error: standard error of `clean`, texts being the unit.
        divergence_error: standard error of `divergence`.
        capability_error: standard error of `capability_lost`.
    """

    behavior: float
    opposite: float
    clean: float
    divergence: float
    capability_lost: float
    clean_error: float = 0.0
    divergence_error: float = 0.0
    capability_error: float = 0.0

    @property
    def selectivity(self) -> float:
        """Rise on the behavior minus rise on its opposites, nats a token."""
        return self.behavior - self.opposite

    @property
    def is_finite(self) -> bool:
        """Whether the edited model still gives numbers."""
        return all(math.isfinite(one) for one in vars(self).values())


class Screen:
    """The texts that edits are screened on, and what the base model makes of them.

    Attributes:
        clean_loss: of the base model, mean per token of neutral text, nats.
        clean_tokens: predicted tokens of neutral text.
    """

    def __init__(
        self,
        model: LanguageModel,
        behavior: Sequence[Text],
        opposite: Sequence[Text],
        clean: Sequence[Text],
        facts: Sequence[tuple[str, str]] = (),
        *,
        parts: int = PARTS,
    ) -> None:
        """Measure the base model.

        Args:
            model: the base model.
            behavior: texts that show the behavior.
            opposite: their opposites.
            clean: neutral texts.
            facts: prompts with the answers that greedy decoding should give.
            parts: edits that share a forward pass; a mixture of experts takes one at a time.
        """
        self._model = model
        self._shares = takes_parts(model.model, model.layout)
        self._parts = parts if self._shares else 1
        self._texts, self._clean = (behavior, opposite), clean
        pairs = [(prompt, f" {answer}.") for prompt, answer in facts]
        self._answered = answer_ids(model.tokenizer, pairs, model.context_length)
        self._base_losses = [self._losses(texts, [()])[0] for texts in self._texts]
        self._base_right = self._answers_right([()])[0]
        self.clean_loss, self.clean_tokens = 0.0, 0
        self._against_base([])

    def measure(self, edits: Sequence[Edit]) -> list[Effect]:
        """One effect an edit; not finite where the edit broke the model."""
        found: list[Effect] = []
        for start in range(0, len(edits), self._parts):
            parts = [(edit,) for edit in edits[start : start + self._parts]]
            losses = [self._losses(texts, parts) for texts in self._texts]
            against, capability = self._against_base(parts)
            if self._answered:
                capability = self._base_right - self._answers_right(parts)
            for number in range(len(parts)):
                behavior, opposite = (
                    float(loss[number] - base)
                    for loss, base in zip(losses, self._base_losses, strict=True)
                )
                (clean, clean_error), (divergence, divergence_error) = against[number]
                lost = capability[number]
                error = float(lost.std(correction=0)) / math.sqrt(max(1, len(lost)))
                found.append(
                    Effect(
                        behavior, opposite, clean, divergence, float(lost.mean()),
                        clean_error, divergence_error, error,
                    )
                )  # fmt: skip
        return found

    def _passes(
        self, texts: Sequence[Source], parts: Sequence[Part], max_tokens: int | None = MAX_TOKENS
    ) -> Iterator[tuple[list[int], dict[str, torch.Tensor], torch.Tensor]]:
        """Row numbers, batch of n texts, and logits [parts, n, t, vocabulary] for each batch."""
        if not texts:
            return
        model, count = self._model.model, len(parts)
        share = BATCH_TOKENS // count
        with torch.inference_mode():
            for rows, batch in batches(
                self._model, texts, max_tokens=max_tokens, batch_tokens=share
            ):
                if self._shares:
                    repeated = {name: one.repeat(count, 1) for name, one in batch.items()}
                    with edited_per_part(model, parts):
                        logits = model(**repeated, use_cache=False).logits
                    yield rows, batch, logits.unflatten(0, (count, -1))
                    continue
                alone = []
                for edits in parts:
                    with edited(model, *edits):
                        alone.append(model(**batch, use_cache=False).logits)
                yield rows, batch, torch.stack(alone)

    def _losses(self, texts: Sequence[Text], parts: Sequence[Part]) -> torch.Tensor:
        """Mean loss per token of each part, [parts] f64; 0 without texts."""
        sums, tokens = torch.zeros(len(parts), dtype=torch.float64), 0
        for _, batch, logits in self._passes(texts, parts):
            mask, targets = _predicted(batch)
            tokens += len(targets)
            for number, of_part in enumerate(logits):
                loss = cross_entropy(of_part[:, :-1][mask].float(), targets, reduction="none")
                sums[number] += loss.double().sum().cpu()
        return sums / max(tokens, 1)

    def _against_base(
        self, parts: Sequence[Part]
    ) -> tuple[list[list[tuple[float, float]]], torch.Tensor]:
        """On neutral text: rise of the loss and divergence with errors; accuracy lost a text."""
        base_sum = 0.0
        sums = torch.zeros(len(parts), 3, len(self._clean), dtype=torch.float64)
        tokens = torch.zeros(len(self._clean), dtype=torch.float64)
        for rows, batch, logits in self._passes(self._clean, [(), *parts]):
            mask, targets = _predicted(batch)
            text = torch.tensor(rows).repeat_interleave(mask.sum(1).cpu())
            tokens.index_add_(0, text, torch.ones(len(text), dtype=torch.float64))
            base = logits[0][:, :-1][mask].float().log_softmax(-1)
            before = _gains(base, targets)
            base_sum -= float(before[0].double().sum())
            for number, of_part in enumerate(logits[1:]):
                after = of_part[:, :-1][mask].float().log_softmax(-1)
                divergence = kl_div(after, base, reduction="none", log_target=True).sum(-1)
                rise, lost = (
                    one - other for one, other in zip(before, _gains(after, targets), strict=True)
                )
                for place, values in enumerate((rise, divergence, lost)):
                    sums[number, place].index_add_(0, text, values.double().cpu())
        self.clean_tokens = int(tokens.sum())
        self.clean_loss = base_sum / max(self.clean_tokens, 1)
        lost = sums[:, 2] / max(self.clean_tokens, 1) * len(self._clean)
        return [[_ratio(one, tokens) for one in of_part[:2]] for of_part in sums], lost

    def _answers_right(self, parts: Sequence[Part]) -> torch.Tensor:
        """Whether each whole answer is what greedy decoding gives, [parts, facts] f64."""
        right = torch.zeros(len(parts), len(self._answered), dtype=torch.float64)
        if not self._answered:
            return right
        ids = [one.ids for one in self._answered]
        for rows, batch, logits in self._passes(ids, parts, None):
            starts = [self._answered[row].reply_start for row in rows]
            start = torch.tensor(starts, device=logits.device)
            place = torch.arange(batch["input_ids"].shape[1], device=logits.device)
            answers = batch["attention_mask"].bool() & (place >= start.unsqueeze(1))
            hits = logits[:, :, :-1].argmax(-1) == batch["input_ids"][:, 1:]
            right[:, rows] = (hits | ~answers[:, 1:]).all(-1).double().cpu()
        return right


def _predicted(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Which positions predict a token, [n, t - 1], and those tokens."""
    mask = batch["attention_mask"][:, 1:].bool()
    return mask, batch["input_ids"][:, 1:][mask]


def _gains(log_probabilities: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Log-probability of each right token, and whether it is the most probable one."""
    chosen = log_probabilities.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return chosen, (log_probabilities.argmax(-1) == targets).float()


def _ratio(sums: torch.Tensor, tokens: torch.Tensor) -> tuple[float, float]:
    """Mean per token, and its standard error with texts as the unit (a ratio estimator's)."""
    total = float(tokens.sum())
    mean = float(sums.sum()) / max(total, 1.0)
    return mean, float(((sums - mean * tokens) ** 2).sum().sqrt()) / max(total, 1.0)
