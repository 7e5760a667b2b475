"""Texts as token ids with the tokens that a loss counts, in batches bounded by tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from modelsurgery.data.texts import LabeledText
from modelsurgery.model.hidden_states import batches
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.token_ids import TokenizedText as TokenizedText
from modelsurgery.model.token_ids import opening_ids, predicted_tokens

MAX_TOKENS = 256
LABELLED_TOKENS = 100  # the paper's limit for a text; an exchange may be as long as neutral text


@dataclass(frozen=True)
class TextBatch:
    """Texts padded on the right to t tokens."""

    rows: tuple[int, ...]  # their numbers
    # Token ids and attention mask, [n, t] int64, on the model's device.
    inputs: dict[str, torch.Tensor]
    predicted: torch.Tensor  # which tokens are predicted, [n, t] bool

    @property
    def predicting(self) -> torch.Tensor:
        """At which positions a counted token is predicted, [n, t] bool."""
        return torch.nn.functional.pad(self.predicted[:, 1:], (0, 1))

    @property
    def shares(self) -> torch.Tensor:
        """What each position counts for in the mean of its text, [n · t] float32."""
        counted = self.predicting.float()
        return (counted / counted.sum(1, keepdim=True)).flatten()

    @property
    def tokens(self) -> int:
        """Tokens read, padding not counted."""
        return int(self.inputs["attention_mask"].sum())


def tokenize_plain(model: LanguageModel, texts: Sequence[str]) -> list[TokenizedText]:
    """Plain texts, cut at their end."""
    first = max(1, len(opening_ids(model.tokenizer)))
    return [TokenizedText(tuple(ids[:MAX_TOKENS]), first) for ids in model.token_ids(texts)]


def tokenize_labeled(model: LanguageModel, texts: Sequence[LabeledText]) -> list[TokenizedText]:
    """Labeled texts, cut at their end; of an exchange the reply's tokens alone are predicted."""
    found = []
    for text in texts:
        read = model.reply_ids(text)
        most = LABELLED_TOKENS if text.reply is None else MAX_TOKENS
        found.append(TokenizedText(read.ids[:most], max(1, read.start)))
    return found


def text_batches(
    model: LanguageModel, texts: Sequence[TokenizedText], batch_tokens: int
) -> Iterator[TextBatch]:
    """Batches of similar length, longest first; a text without predicted tokens is left out."""
    context = model.context_length
    used = [row for row, text in enumerate(texts) if min(len(text.ids), context) > text.start]
    ids = [texts[row].ids for row in used]
    for places, inputs in batches(model, ids, max_tokens=None, batch_tokens=batch_tokens):
        rows = tuple(used[place] for place in places)
        yield TextBatch(rows, inputs, predicted_tokens([texts[row] for row in rows], inputs))


def texts_up_to(texts: Sequence[TokenizedText], tokens: int) -> list[TokenizedText]:
    """Texts from the beginning, with about so many tokens altogether."""
    before = accumulate((len(text.ids) for text in texts), initial=0)
    return [text for text, read in zip(texts, before, strict=False) if read < tokens]
