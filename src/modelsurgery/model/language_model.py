"""A loaded language model with its tokenizer, and how texts become its token ids."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import torch

from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.layouts import GateLayout, GateMatrix, find_gate_matrices
from modelsurgery.data.texts import LabeledText
from modelsurgery.edit.edit import Edit
from modelsurgery.files.atomic import sha256_file, sha256_json
from modelsurgery.model.chat_template import ChatTemplate, Text
from modelsurgery.model.token_ids import (
    ReplyIds,
    Source,
    padded,
    rendered_text,
    reply_ids,
    token_ids,
)

MOST_HASHED_BYTES = 1 << 30
TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
NO_LIMIT = 1 << 20  # tokens that a model reads where its configuration names no limit
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer and the checkpoint it came from.

    Attributes:
        model: the transformers model, in eval mode, without gradients.
        tokenizer: its tokenizer; has a padding token.
        checkpoint: the directory that it was loaded from.
        layout: where its gate rows are, if a user described it; None for known families.
        edits: what its weights have in memory that the checkpoint has not (`stacking`).
        template_name: which of several named chat templates; None takes `default`.
        now: the time that a chat template is told.
    """

    model: Any
    tokenizer: Any
    checkpoint: Checkpoint
    layout: GateLayout | None = None
    edits: tuple[Edit, ...] = ()
    template_name: str | None = None
    now: datetime = field(default_factory=datetime.now)
    _fingerprint: list[str] = field(default_factory=list, repr=False, compare=False)
    _told: set[str] = field(default_factory=set, repr=False, compare=False)

    @cached_property
    def gates(self) -> tuple[GateMatrix, ...]:
        """Its gate matrices.

        Raises:
            UnsupportedModelError: unknown family, quantized, or not all of them are there.
        """
        return find_gate_matrices(self.checkpoint, self.layout)

    @property
    def device(self) -> torch.device:
        """Where the input embeddings are, and so where token ids go."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def decoder(self) -> Any:
        """The model without its language-model head."""
        return self.model.get_decoder()

    @property
    def layer_count(self) -> int:
        """Number L of blocks."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    @property
    def context_length(self) -> int:
        """Tokens that the model reads at once; a million where its configuration does not say."""
        config = self.model.config.get_text_config()
        names = ("max_position_embeddings", "max_seq_len")  # the latter is MPT's
        return next((int(n) for name in names if (n := getattr(config, name, None))), NO_LIMIT)

    @property
    def template(self) -> ChatTemplate:
        """Its chat template, if it has one."""
        return ChatTemplate(self.tokenizer, self.template_name, self.now)

    def token_ids(self, texts: Sequence[Source]) -> list[list[int]]:
        """Ids of texts, whole: plain ones begin as the tokenizer begins a text and get no end."""
        return token_ids(self.tokenizer, texts)

    def tokenize(self, texts: Sequence[Source], *, side: str = "right") -> dict[str, torch.Tensor]:
        """Ids of texts as a batch (`batch_of`)."""
        return self.batch_of(self.token_ids(texts), side=side)

    def batch_of(
        self, rows: Sequence[Sequence[int]], *, side: str = "right"
    ) -> dict[str, torch.Tensor]:
        """Token ids and attention mask, [n, t] int64, padded on `side`, on the model's device."""
        batch = padded(rows, self.tokenizer.pad_token_id, side)
        return {name: one.to(self.device) for name, one in batch.items()}

    def warn(self, message: str) -> None:
        """Log a warning, the same one once only: what concerns a text is met in each pass."""
        if message not in self._told:
            self._told.add(message)
            log.warning(message)

    def render(self, text: LabeledText) -> Text:
        """A text as the model reads it: with a reply, the exchange in the model's chat template.

        Without a template the reply follows on a line of its own.

        Raises:
            RecipeError: the template refuses it.
        """
        return rendered_text(self.template, text)

    def reply_ids(self, text: LabeledText) -> ReplyIds:
        """Ids of a text as the model reads it, and where its reply begins (`token_ids`)."""
        return reply_ids(self.template, text)

    def fingerprint(self) -> str:
        """A key for caches: changes when the model's weights, configuration or tokenizer change.

        The weights count by content up to 1 GiB. Reading more would take longer than what a cache
        saves, so larger models count by place, sizes and times of change of their files.
        """
        if self._fingerprint:
            return self._fingerprint[0]
        directory = self.checkpoint.directory.resolve()
        weights = [directory / name for name in self.checkpoint.files]
        if sum(path.stat().st_size for path in weights) <= MOST_HASHED_BYTES:
            content: list[Any] = [[path.name, sha256_file(path)] for path in weights]
        else:
            stats = [(path, path.stat()) for path in weights]
            content = [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
        others = [directory / name for name in TEXT_FILES]
        texts = [[path.name, sha256_file(path)] for path in others if path.is_file()]
        self._fingerprint.append(sha256_json([content, texts, self.checkpoint.config]))
        return self._fingerprint[0]
