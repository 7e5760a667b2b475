"""Screening: what many edits of one model do to texts, with forward passes alone.

Nothing is generated. Several edits share each forward pass (`edited_per_part`), and where base and
edited model are compared token by token, the base model is one more part. A behavior's loss is a
calm measure: greedy rates on a few hundred prompts move by five points for no reason, this moves
smoothly.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from modelsurgery.apply.in_memory import takes_parts
from modelsurgery.data.texts import LabelledText
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.effects import Measurement
from modelsurgery.evaluation.language_modelling import (
    BATCH_TOKENS,
    MAX_TOKENS,
    answered,
    check_predicted,
)
from modelsurgery.evaluation.predictions import Predictions, Side, predict
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.chat_template import Text
from modelsurgery.model.halves import Batch
from modelsurgery.model.hidden_states import batches
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.token_ids import ReplyIds, Source, answer_ids

PARTS = 8  # edits that share a forward pass


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
        own: mean KL(base ‖ edited) over the model's own answers to harmless requests, nats; 0
            where there are none.
        uncalled: rise of the share of prompts that show the behavior, of those that do not call for
            it; 0 until somebody measures it by generation.
        clean_error: standard error of `clean`, texts being the unit.
        divergence_error: standard error of `divergence`.
        capability_error: standard error of `capability_lost`.
        own_error: standard error of `own`.
        uncalled_error: standard error of `uncalled`.
    """

    behavior: float
    opposite: float
    clean: float
    divergence: float
    capability_lost: float
    clean_error: float = 0.0
    divergence_error: float = 0.0
    capability_error: float = 0.0
    own: float = 0.0
    own_error: float = 0.0
    uncalled: float = 0.0
    uncalled_error: float = 0.0

    @property
    def selectivity(self) -> float:
        """Rise on the behavior minus rise on its opposites, nats a token."""
        return self.behavior - self.opposite

    @property
    def measurement(self) -> Measurement:
        """What is kept of it with the edit."""
        return Measurement(self.selectivity, self.divergence)

    @property
    def worst_divergence(self) -> float:
        """The larger one of the divergences on neutral text and on the model's own answers."""
        return max(self.divergence, self.own)

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
        behavior: Sequence[Text | LabelledText],
        opposite: Sequence[Text | LabelledText],
        clean: Sequence[Text],
        facts: Sequence[tuple[str, str]] = (),
        *,
        own: Sequence[LabelledText] = (),
        parts: int = PARTS,
        progress: Progress = silent,
    ) -> None:
        """Measure the base model.

        Args:
            model: the base model.
            behavior: texts that show the behavior; of an exchange the reply alone counts.
            opposite: their opposites.
            clean: neutral texts.
            facts: prompts with the answers that greedy decoding should give.
            own: requests with the model's own answers, which should stay as they are.
            parts: edits that share a forward pass; a mixture of experts takes one at a time.
            progress: is told of texts read.

        Raises:
            EvaluationError: neutral texts, or the others where there are any, without a token to
                predict.
        """
        self._model = model
        self._shares = takes_parts(model.model, model.layout)
        self._parts = parts if self._shares else 1
        self._texts = tuple(
            [_read(model, text) for text in texts] for texts in (behavior, opposite)
        )
        self._clean = clean
        self._own = [model.reply_ids(text) for text in own]
        pairs = [(prompt, f" {answer}.") for prompt, answer in facts]
        self._answered = answer_ids(model.tokenizer, pairs, model.context_length)
        self.clean_loss, self.clean_tokens = 0.0, 0
        with self._reading(progress, 1):
            self._base_losses = [self._losses(texts, [()])[0] for texts in self._texts]
            self._base_right = self._answers_right([()])[0]
            self._against_base([])
        check_predicted(self.clean_tokens, "neutral")

    def measure(self, edits: Sequence[Edit], *, progress: Progress = silent) -> list[Effect]:
        """One effect an edit; not finite where the edit broke the model.

        `progress` is told of texts read.
        """
        with self._reading(progress, math.ceil(len(edits) / self._parts)):
            return self._effects(edits)

    @contextmanager
    def _reading(self, progress: Progress, rounds: int) -> Iterator[None]:
        """Tell of texts that are read, all of them so many times."""
        texts = (*self._texts, self._clean, self._own, self._answered)
        count = sum(map(len, texts))
        with progress("read texts", rounds * count) as self._advance:
            yield

    def _effects(self, edits: Sequence[Edit]) -> list[Effect]:
        found: list[Effect] = []
        for start in range(0, len(edits), self._parts):
            parts = [(edit,) for edit in edits[start : start + self._parts]]
            losses = [self._losses(texts, parts) for texts in self._texts]
            against, capability = self._against_base(parts)
            if self._answered:
                capability = self._base_right - self._answers_right(parts)
            own = self._own_divergences(parts)
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
                        clean_error, divergence_error, error, *own[number],
                    )
                )  # fmt: skip
        return found

    def _batches(
        self, texts: Sequence[Source], sides: int, max_tokens: int | None = MAX_TOKENS
    ) -> Iterator[tuple[list[int], Batch]]:
        """Row numbers and batches of texts that so many sides read at once."""
        if texts:
            share = BATCH_TOKENS // sides
            for rows, batch in batches(
                self._model, texts, max_tokens=max_tokens, batch_tokens=share
            ):
                yield rows, batch
                self._advance(len(rows), tokens=sides * int(batch["attention_mask"].sum()))

    def _predict(
        self, batch: Batch, sides: Sequence[Side], wanted: torch.Tensor | None = None
    ) -> Predictions:
        with torch.inference_mode():
            return predict(self._model.model, batch, sides, wanted=wanted, together=self._shares)

    def _replies(
        self, texts: Sequence[ReplyIds], sides: int
    ) -> Iterator[tuple[list[int], Batch, torch.Tensor]]:
        """Row numbers and batches, and which of their tokens are a reply's, [n, t] bool."""
        for rows, batch in self._batches([text.ids for text in texts], sides):
            mask = batch["attention_mask"].bool()
            starts = torch.tensor([max(1, texts[row].reply_start) for row in rows])
            place = torch.arange(mask.shape[1], device=mask.device)
            yield rows, batch, mask & (place >= starts.to(mask.device).unsqueeze(1))

    def _own_divergences(self, parts: Sequence[Side]) -> list[tuple[float, float]]:
        """Divergence of each part on the model's own answers, with its error; 0 without any."""
        sums = torch.zeros(len(parts), len(self._own), dtype=torch.float64)
        tokens = torch.zeros(len(self._own), dtype=torch.float64)
        for rows, batch, wanted in self._replies(self._own, 1 + len(parts)):
            found = self._predict(batch, [(), *parts], wanted)
            text = torch.tensor(rows)[found.texts]
            tokens.index_add_(0, text, torch.ones(len(text), dtype=torch.float64))
            sums.index_add_(1, text, found.divergences[1:])
        return [_ratio(one, tokens) for one in sums]

    def _losses(self, texts: Sequence[ReplyIds], parts: Sequence[Side]) -> torch.Tensor:
        """Mean loss per token of each part, [parts] f64; 0 without texts."""
        sums, tokens = torch.zeros(len(parts), dtype=torch.float64), 0
        for _, batch, wanted in self._replies(texts, len(parts)):
            found = self._predict(batch, parts, wanted)
            sums += found.losses.sum(-1)
            tokens += found.losses.shape[1]
        if texts:
            check_predicted(tokens, "labelled")
        return sums / max(tokens, 1)

    def _against_base(
        self, parts: Sequence[Side]
    ) -> tuple[list[list[tuple[float, float]]], torch.Tensor]:
        """On neutral text: rise of the loss and divergence with errors; accuracy lost a text."""
        base_sum = 0.0
        sums = torch.zeros(len(parts), 3, len(self._clean), dtype=torch.float64)
        tokens = torch.zeros(len(self._clean), dtype=torch.float64)
        for rows, batch in self._batches(self._clean, 1 + len(parts)):
            found = self._predict(batch, [(), *parts])
            text = torch.tensor(rows)[found.texts]
            tokens.index_add_(0, text, torch.ones(len(text), dtype=torch.float64))
            base_sum += float(found.losses[0].sum())
            hits = found.hits.double()
            rises, lost = found.losses[1:] - found.losses[0], hits[0] - hits[1:]
            measured = torch.stack([rises, found.divergences[1:], lost], 1)
            sums.index_add_(2, text, measured)
        self.clean_tokens = int(tokens.sum())
        self.clean_loss = base_sum / max(self.clean_tokens, 1)
        lost = sums[:, 2] / max(self.clean_tokens, 1) * len(self._clean)
        return [[_ratio(one, tokens) for one in of_part[:2]] for of_part in sums], lost

    def _answers_right(self, parts: Sequence[Side]) -> torch.Tensor:
        """Whether each whole answer is what greedy decoding gives, [parts, facts] f64."""
        right = torch.zeros(len(parts), len(self._answered), dtype=torch.float64)
        if not self._answered:
            return right
        ids = [one.ids for one in self._answered]
        for rows, batch in self._batches(ids, len(parts), None):
            starts = [self._answered[row].reply_start for row in rows]
            with torch.inference_mode():
                found = answered(self._model.model, batch, starts, parts, together=self._shares)
            right[:, rows] = found.double()
        return right


def _read(model: LanguageModel, text: Text | LabelledText) -> ReplyIds:
    """Ids of a text, and from where on its loss counts."""
    if isinstance(text, LabelledText) and text.reply is not None:
        return model.reply_ids(text)
    source = text.text if isinstance(text, LabelledText) else text
    (ids,) = model.token_ids([source])
    return ReplyIds(tuple(ids), 1)


def _ratio(sums: torch.Tensor, tokens: torch.Tensor) -> tuple[float, float]:
    """Mean per token, and its standard error with texts as the unit (a ratio estimator's)."""
    total = float(tokens.sum())
    mean = float(sums.sum()) / max(total, 1.0)
    return mean, float(((sums - mean * tokens) ** 2).sum().sqrt()) / max(total, 1.0)
