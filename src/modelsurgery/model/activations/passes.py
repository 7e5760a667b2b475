"""Passes over texts, batch by batch, whose sums are kept as they come."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from modelsurgery.files.atomic import sha256_json
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.activations.ledger import Ledger, Sums
from modelsurgery.model.activations.losses import Reader
from modelsurgery.model.activations.texts import TextBatch, TokenizedText, text_batches
from modelsurgery.model.language_model import LanguageModel

FORWARD_TOKENS = 2048


@dataclass(frozen=True)
class Passes:
    """How a model reads texts for statistics."""

    model: LanguageModel  # the model; edits that it has in memory are part of it
    ledger: Ledger = field(default_factory=Ledger)  # keeps sums as they come
    # Tokens in a pass forward and back, padding included; None takes what the memory holds.
    batch_tokens: int | None = None
    # Compute each block's activations again on the way back: a third more time, and the memory of
    # one block in place of all.
    checkpointing: bool = False
    # Inputs of a gate site that are kept for its second moment, at most; None keeps the d × d
    # matrix up to d = 8,192, and 2,048 inputs of wider models.
    samples: int | None = None
    progress: Progress = silent  # is told of texts done

    def reader(self) -> Reader:
        """Reads batches forward and backward."""
        return Reader(self.model, self.batch_tokens, checkpointing=self.checkpointing)

    def run(
        self,
        name: str,
        parts: Sequence[Sequence[TokenizedText]],
        sums: Sums,
        read: Callable[[int, TextBatch], None],
        *settings: object,
        batch_tokens: int = FORWARD_TOKENS,
    ) -> None:
        """Read all parts, from where the ledger knows of.

        Args:
            name: of the pass.
            parts: texts in parts, which share no batch.
            sums: what `read` adds to; by name, the same in every run.
            read: reads a batch of a part with the given number.
            settings: plain values, all that the sums depend on besides model and texts.
            batch_tokens: tokens in one batch, padding included.
        """
        ids = [[[list(text.ids), text.start] for text in part] for part in parts]
        weights = [self.model.fingerprint(), str(self.model.model.dtype)]
        key = sha256_json([name, weights, ids, batch_tokens, sorted(sums), *settings])
        done = self.ledger.begin(key, sums)
        batches = [
            (number, batch)
            for number, part in enumerate(parts)
            for batch in text_batches(self.model, part, batch_tokens)
        ]
        with self.progress(name, sum(len(batch.rows) for _, batch in batches)) as advance:
            for place, (number, batch) in enumerate(batches):
                if place >= done:
                    read(number, batch)
                    is_last = place == len(batches) - 1
                    self.ledger.keep(key, sums, place + 1, is_last=is_last)
                advance(len(batch.rows), tokens=batch.tokens)
