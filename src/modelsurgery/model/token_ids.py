"""Texts as token ids: the only place that decides which special tokens a text gets.

A plain text begins with what the tokenizer puts before one (its opening: mostly BOS, often
nothing) and never gets what some put behind one: an EOS would be read as the end of a prompt that
is to be continued, and counted as a prediction. A `Rendered` text gets nothing at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch

from modelsurgery.data.texts import LabeledText
from modelsurgery.model.chat_template import ChatTemplate, Rendered, Text, plain

PROBE = "a"  # any text shows what a tokenizer puts before it
Source = Text | tuple[int, ...]  # a text, or the ids that were made of one


@dataclass(frozen=True)
class TokenizedText:
    """A text as the model reads it, and where what a loss counts of it begins."""

    ids: tuple[int, ...]  # its tokens
    # Number of the first token that counts, of an exchange the first of the reply; nothing predicts
    # the very first token, so 0 counts from the second one.
    start: int = 1


def token_ids(tokenizer: Any, texts: Sequence[Source]) -> list[list[int]]:
    """Token ids of each text, whole; ids stay as they are."""
    strings = [plain(one) for one in texts if not isinstance(one, tuple)]
    if not strings:
        return [list(one) for one in texts if isinstance(one, tuple)]
    opening = opening_ids(tokenizer)
    bare = iter(tokenizer(strings, add_special_tokens=False, verbose=False)["input_ids"])
    return [
        [*one]
        if isinstance(one, tuple)
        else [*([] if isinstance(one, Rendered) else opening), *next(bare)]
        for one in texts
    ]


def opening_ids(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before a plain text; mostly BOS or nothing."""
    whole = tokenizer(PROBE)["input_ids"]
    bare = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if bare and whole[start : start + len(bare)] == bare:
            return list(whole[:start])
    return list(whole[:1]) if whole[:1] == [tokenizer.bos_token_id] else []


def rendered_text(template: ChatTemplate, text: LabeledText) -> Text:
    """A text as a model reads it: with a reply, the exchange in its chat template.

    Without a template the reply follows on a line of its own.

    Raises:
        RecipeError: the template refuses it.
    """
    if text.reply is None:
        return text.text
    if not template.exists:
        return f"{text.text}\n{text.reply}"
    return template.exchange([("user", text.text), ("assistant", text.reply)])


def reply_ids(template: ChatTemplate, text: LabeledText) -> TokenizedText:
    """Ids of a text as the model's template says, and where its reply begins.

    The reply begins behind the prompt as it is rendered for an answer. Where the exchange does not
    begin with that (tokens merged across the border, or the template opens a thought only in a
    prompt), it begins at the first token that differs.

    Raises:
        RecipeError: the template refuses it.
    """
    (ids,) = token_ids(template.tokenizer, [rendered_text(template, text)])
    if text.reply is None:
        return TokenizedText(tuple(ids), min(len(opening_ids(template.tokenizer)), len(ids)))
    prompt: Text = f"{text.text}\n"
    if template.exists:
        prompt = template.prompt([("user", text.text)])
    (before,) = token_ids(template.tokenizer, [prompt])
    return TokenizedText(tuple(ids), common_length(before, ids))


def answer_ids(tokenizer: Any, pairs: Sequence[tuple[str, str]], most: int) -> list[TokenizedText]:
    """Ids of plain prompts with the answers that follow them directly, and where those begin.

    An answer begins with its space. Of more than `most` ids the last ones stay, and the opening
    before the prompt.
    """
    opening = opening_ids(tokenizer)
    befores = token_ids(tokenizer, [prompt for prompt, _ in pairs])
    wholes = token_ids(tokenizer, [prompt + answer for prompt, answer in pairs])
    found = []
    for before, whole in zip(befores, wholes, strict=True):
        kept = without_beginning(whole, most, opening)
        start = common_length(before, whole) - (len(whole) - len(kept))
        found.append(TokenizedText(tuple(kept), max(1, start)))
    return found


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def without_beginning(ids: Sequence[int], most: int, opening: Sequence[int] = ()) -> list[int]:
    """The last of the ids, `most` of them, behind their opening if they have it."""
    if len(ids) <= most:
        return [*ids]
    kept = list(opening) if list(ids[: len(opening)]) == list(opening) else []
    kept = kept[: most - 1]
    return [*kept, *ids[len(ids) - (most - len(kept)) :]]


def predicted_tokens(
    texts: Sequence[TokenizedText], batch: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Which tokens of a batch of texts, padded on the right, are predicted, [n, t] bool."""
    mask = batch["attention_mask"].bool()
    starts = torch.tensor([max(1, text.start) for text in texts], device=mask.device)
    places = torch.arange(mask.shape[1], device=mask.device)
    return mask & (places >= starts.unsqueeze(1))


def padded(rows: Sequence[Sequence[int]], padding: int, side: str) -> dict[str, torch.Tensor]:
    """Ids and attention mask, [n, t] int64 on the CPU, padded on a side (`left` or `right`)."""
    width = max(map(len, rows), default=0)
    ids = torch.full((len(rows), width), padding, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, one in enumerate(rows):
        place = slice(width - len(one), None) if side == "left" else slice(None, len(one))
        ids[row, place] = torch.tensor(one, dtype=torch.long)
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask}
