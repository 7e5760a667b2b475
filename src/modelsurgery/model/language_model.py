"""A loaded language model with its tokenizer, and how texts become its token ids."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from modelsurgery.apply.in_memory import loaded_gates
from modelsurgery.apply.loaded_weights import running_device
from modelsurgery.checkpoint.directory import Checkpoint
from modelsurgery.checkpoint.layouts import GateLayout, GateMatrix, find_gate_matrices
from modelsurgery.data.texts import LabeledText
from modelsurgery.edit.edit import Edit
from modelsurgery.files.atomic import sha256_file, sha256_json
from modelsurgery.model.chat_template import ChatTemplate, Text
from modelsurgery.model.token_ids import (
    Source,
    TokenizedText,
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
    """A causal language model with its tokenizer and the checkpoint it was loaded from.

    Attributes:
        model: transformers model in eval mode, without gradients.
        tokenizer: its tokenizer, with a padding token.
        checkpoint: the directory that it was loaded from.
        layout: where its gate rows are, if described by the user; None for supported families.
        edits: edits that are applied in memory and not in the checkpoint.
        template_name: name of the chat template, if there are several; None means `default`.
        now: date and time to give to the chat template.
        gguf: the GGUF file that it was dequantized from; None for a model directory.

    Example:
        >>> model = load_model("model")
        >>> model.layer_count, len(model.gates)
        (4, 4)
    """

    model: Any
    tokenizer: Any
    checkpoint: Checkpoint
    layout: GateLayout | None = None
    edits: tuple[Edit, ...] = ()
    template_name: str | None = None
    now: datetime = field(default_factory=datetime.now)
    gguf: Path | None = None
    _fingerprint: list[str] = field(default_factory=list, repr=False, compare=False)
    _told: set[str] = field(default_factory=set, repr=False, compare=False)

    @cached_property
    def gates(self) -> tuple[GateMatrix, ...]:
        """Gate matrices of the model.

        Raises:
            UnsupportedModelError: the family is unknown, the weights are quantized, or gate
                matrices are missing.
        """
        return find_gate_matrices(self.checkpoint, self.layout)

    @property
    def device(self) -> torch.device:
        """Device of the input embeddings, and so of token ids."""
        return running_device(self.model.get_input_embeddings())

    @property
    def block_shares(self) -> dict[torch.device, float]:
        """Share of the blocks with gates that each device runs."""
        owners = {gate.tensor.rpartition(".")[0] for gate in loaded_gates(self.model, self.layout)}
        counts = Counter(running_device(self.model.get_submodule(name)) for name in owners)
        return {device: count / counts.total() for device, count in counts.items()}

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
        """Number of tokens that the model can read; a million if its configuration does not say."""
        config = self.model.config.get_text_config()
        names = ("max_position_embeddings", "max_seq_len")  # the latter is MPT's
        return next((int(n) for name in names if (n := getattr(config, name, None))), NO_LIMIT)

    @property
    def template(self) -> ChatTemplate:
        """Chat template of the model, if it has one."""
        return ChatTemplate(self.tokenizer, self.template_name, self.now)

    def token_ids(self, texts: Sequence[Source]) -> list[list[int]]:
        """Return the token ids of texts, not truncated. Plain texts get no end token."""
        return token_ids(self.tokenizer, texts)

    def tokenize(self, texts: Sequence[Source], *, side: str = "right") -> dict[str, torch.Tensor]:
        """Return the token ids of texts as a batch (see `batch_of`)."""
        return self.batch_of(self.token_ids(texts), side=side)

    def batch_of(
        self, rows: Sequence[Sequence[int]], *, side: str = "right"
    ) -> dict[str, torch.Tensor]:
        """Return token ids and attention mask, [n, t] int64, on the model's device.

        Args:
            rows: token ids of n texts.
            side: side to pad on, `left` or `right`.
        """
        batch = padded(rows, self.tokenizer.pad_token_id, side)
        return {name: one.to(self.device) for name, one in batch.items()}

    def warn(self, message: str) -> None:
        """Log a warning, each message only once."""
        if message not in self._told:
            self._told.add(message)
            log.warning(message)

    def render(self, text: LabeledText) -> Text:
        """Render a text as the model reads it, in its chat template if there is a reply.

        Without a chat template the reply follows on a line of its own.

        Raises:
            RecipeError: the chat template refuses the text.
        """
        return rendered_text(self.template, text)

    def reply_ids(self, text: LabeledText) -> TokenizedText:
        """Return the token ids of a text as the model reads it, and where its reply begins."""
        return reply_ids(self.template, text)

    def fingerprint(self) -> str:
        """Return a cache key that changes with the model's weights, configuration or tokenizer.

        Weights up to 1 GiB are hashed. Hashing more would take longer than a cache saves, so larger
        models are identified by the paths, sizes and modification times of their files.
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
