"""Screening: what many edits of one model do to texts, with forward passes alone.

Nothing is generated. Several edits share each forward pass (`edited_per_part`). Where base and
edited model are compared token by token, the base model's last hidden states are kept from its
first reading: those of a few thousand tokens are some megabytes. A behavior's loss is a calm
measure: greedy rates on a few hundred prompts move by five points for no reason, this moves
smoothly.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from modelsurgery.apply.in_memory import takes_parts
from modelsurgery.data.texts import LabeledText
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.effects import Measurement
from modelsurgery.evaluation.language_modelling import (
    BATCH_TOKENS,
    MAX_TOKENS,
    LanguageModelling,
    TextSums,
    check_predicted,
    per_token,
    plain_ids,
    sum_over_texts,
)
from modelsurgery.evaluation.predictions import Side
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.chat_template import Text
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.token_ids import TokenizedText, answer_ids

PARTS = 8  # edits that share a forward pass


@dataclass(frozen=True)
class Effect:
    """What an edit does to texts: rises of the mean loss per token in nats, and shares lost."""

    behavior: float  # rise of the loss on texts that show the behavior
    opposite: float  # rise on their opposites
    clean: float  # rise on neutral text
    divergence: float  # mean KL(base ‖ edited) over all positions of neutral text, nats
    # Share of the facts that greedy decoding no longer gets right, or where there are none of the
    # next tokens of neutral text; negative where it gets more right.
    capability_lost: float
    clean_error: float = 0.0  # standard error of `clean`, texts being the unit
    divergence_error: float = 0.0  # standard error of `divergence`
    capability_error: float = 0.0  # standard error of `capability_lost`
    # Mean KL(base ‖ edited) over the model's own answers to harmless requests, nats; 0 where there
    # are none.
    own: float = 0.0
    own_error: float = 0.0  # standard error of `own`
    # Rise of the share of prompts that show the behavior, of those that do not call for it; 0 until
    # somebody measures it by generation.
    uncalled: float = 0.0
    uncalled_error: float = 0.0  # standard error of `uncalled`

    @property
    def selectivity(self) -> float:
        """Rise on the behavior minus rise on its opposites, nats per token."""
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
        behavior: Sequence[Text | LabeledText],
        opposite: Sequence[Text | LabeledText],
        clean: Sequence[Text],
        facts: Sequence[tuple[str, str]] = (),
        *,
        own: Sequence[LabeledText] = (),
        parts: int = PARTS,
        progress: Progress = silent,
    ) -> None:
        """Measure the base model.

        Of texts that show the behavior, and of their opposites, the reply alone counts where they
        are exchanges. `clean` are neutral texts, `facts` prompts with the answers that greedy
        decoding should give, `own` requests with the model's own answers, which should stay as they
        are. `parts` edits share a forward pass; a mixture of experts takes one at a time.

        Raises:
            EvaluationError: neutral texts, or the others where there are any, without a token to
                predict.
        """
        self._model = model
        self._shares = takes_parts(model.model, model.layout)
        self._parts = parts if self._shares else 1
        self._labeled = tuple(
            [_read(model, text) for text in texts] for texts in (behavior, opposite)
        )
        self._clean = plain_ids(model, clean)
        self._own = [model.reply_ids(text) for text in own]
        pairs = [(prompt, f" {answer}.") for prompt, answer in facts]
        self._answers = answer_ids(model.tokenizer, pairs, model.context_length)
        # Last hidden states of the base model, by text.
        self._clean_states: dict[int, torch.Tensor] = {}
        self._own_states: dict[int, torch.Tensor] = {}
        with self._reading(progress, 1):
            self._base_losses = [self._base_loss(texts) for texts in self._labeled]
            self._base_right = self._sums(self._answers, [()], None).right[0]
            self._sums(self._own, [()], known=self._own_states)
            base = self._sums(self._clean, [()], known=self._clean_states).compared()
        self.clean_loss, self.clean_tokens = base.base_loss, base.tokens
        check_predicted(self.clean_tokens, "neutral")

    def measure(self, edits: Sequence[Edit], *, progress: Progress = silent) -> list[Effect]:
        """One effect an edit; not finite where the edit broke the model.

        `progress` is told of texts read.
        """
        with self._reading(progress, math.ceil(len(edits) / self._parts)):
            sides = [(edit,) for edit in edits]
            return [
                effect
                for start in range(0, len(edits), self._parts)
                for effect in self._effects(sides[start : start + self._parts])
            ]

    def measure_changed(self, *, progress: Progress = silent) -> Effect:
        """The effect of what changes the model at the moment: hooks, or other weights.

        Token ids and the base model's head must be the same as when the screen was made.
        `progress` is told of texts read.
        """
        with self._reading(progress, 1):
            (effect,) = self._effects([()])
        return effect

    @contextmanager
    def _reading(self, progress: Progress, rounds: int) -> Iterator[None]:
        """Tell of texts that are read, all of them so many times."""
        texts = (*self._labeled, self._clean, self._own, self._answers)
        with progress("read texts", rounds * sum(map(len, texts))) as self._advance:
            yield

    def _base_loss(self, texts: Sequence[TokenizedText]) -> float:
        """Mean loss per token of the base model; 0 without texts."""
        sums = self._sums(texts, [()])
        if texts:
            check_predicted(int(sums.tokens.sum()), "labeled")
        return float(sums.mean_losses[0])

    def _effects(self, parts: Sequence[Side]) -> list[Effect]:
        """Effects of edits that share their forward passes."""
        with_base = [(), *parts]
        losses = [self._sums(texts, parts).mean_losses for texts in self._labeled]
        clean = self._sums(self._clean, with_base, known=self._clean_states)
        right = self._sums(self._answers, parts, None).right
        own = self._sums(self._own, with_base, known=self._own_states)
        found = []
        for number in range(len(parts)):
            behavior, opposite = (
                float(loss[number]) - base
                for loss, base in zip(losses, self._base_losses, strict=True)
            )
            lost = None
            if self._answers:
                lost = self._base_right.double() - right[number].double()
            on_own = per_token(own.divergences[1 + number], own.tokens)
            found.append(
                effect_of(
                    clean.compared(1 + number), lost, on_own, behavior=behavior, opposite=opposite
                )
            )
        return found

    def _sums(
        self,
        texts: Sequence[TokenizedText],
        sides: Sequence[Side],
        max_tokens: int | None = MAX_TOKENS,
        known: dict[int, torch.Tensor] | None = None,
    ) -> TextSums:
        """What sides predict of texts that they read at once."""
        return sum_over_texts(
            self._model,
            texts,
            sides,
            max_tokens=max_tokens,
            batch_tokens=BATCH_TOKENS // len(sides),
            together=self._shares,
            known=known,
            advance=self._advance,
        )


def effect_of(
    clean: LanguageModelling,
    lost: torch.Tensor | None,
    own: tuple[float, float] = (0.0, 0.0),
    *,
    behavior: float = 0.0,
    opposite: float = 0.0,
) -> Effect:
    """An effect from what was measured on each kind of text, base against edited.

    `lost` says of each fact 1 where it was right and is not any more, -1 the other way round; None
    without facts: next tokens of neutral text stand in their place. `own` is the divergence on the
    model's own answers, with its error; `behavior` and `opposite` are rises of the loss.
    """
    capability = clean.hits_lost, clean.hits_lost_error
    if lost is not None:
        capability = per_token(lost.double(), torch.ones(len(lost), dtype=torch.float64))
    measured = (
        behavior, opposite, clean.rise, clean.divergence, capability[0],
        clean.rise_error, clean.divergence_error, capability[1], *own,
    )  # fmt: skip
    return Effect(*(math.nan if one is None else one for one in measured))


def _read(model: LanguageModel, text: Text | LabeledText) -> TokenizedText:
    """Ids of a text, and from where on its loss counts."""
    if isinstance(text, LabeledText):
        if text.reply is not None:
            return model.reply_ids(text)
        text = text.text
    (read,) = plain_ids(model, [text])
    return read
