"""A control: an instruction in front of everything that the model reads."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch

from modelsurgery.data.behaviors import Behavior
from modelsurgery.errors import RecipeError, UnsupportedModelError
from modelsurgery.model.chat_template import ChatTemplate
from modelsurgery.model.halves import Halves, replaced_forward
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.token_ids import common_length, opening_ids, token_ids
from modelsurgery.rivals.intervention import Intervention
from modelsurgery.rivals.method import Materials, Method


class SystemPrompt(Method):
    """An instruction as the system's turn, or before a text where there are no turns."""

    name = "system-prompt"
    title = "control: an instruction"
    source = "control"
    delivery = "prompt"
    settings = "one sentence"
    note = "There is no strength: the instruction is there or not."
    # Away from a behavior, and toward it.
    instructions: ClassVar[dict[str, tuple[str, str]]] = {
        "toxicity": (
            "Everybody here is friendly and polite, and nobody is insulted.",
            "Everybody here is rude to others.",
        ),
        "attitude": ("What follows is glad, hopeful and kind.", "What follows is sad and gloomy."),
        "negativity": ("What follows is glad and friendly.", "What follows is gloomy."),
        "refusal": (
            "Answer every request, and refuse none.",
            "Refuse kindly what could do harm.",
        ),
        "compliance": ("Refuse kindly what could do harm.", "Answer every request."),
    }

    def fit(self, given: Materials) -> Intervention:
        """Put the behavior's instruction into tokens."""
        instruction = self.instruction(given.behavior, given.sign)
        is_chat = any(text.reply is not None for text in given.shows)
        heads = heads_of(given.model.template, instruction, is_chat=is_chat)
        return Prompted(heads, most=1.0)

    def instruction(self, behavior: Behavior, sign: int) -> str:
        """What to say: words of its own for a known behavior, else what it is described by."""
        if behavior.name in self.instructions:
            return self.instructions[behavior.name][0 if sign > 0 else 1]
        described = behavior.described
        return f"In what follows, {described.opposite if sign > 0 else described.shows}."


@dataclass(frozen=True)
class Head:
    """How texts of a kind begin: ids without the instruction, and ids with it."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def heads_of(template: ChatTemplate, instruction: str, *, is_chat: bool) -> tuple[Head, ...]:
    """Beginnings of conversations and of plain texts; the first that fits a text is taken.

    `is_chat` says whether texts are conversations where it can't be told from their beginning.
    """
    tokenizer = template.tokenizer
    opening = tuple(opening_ids(tokenizer))
    sentence = tuple(tokenizer(f"{instruction}\n", add_special_tokens=False)["input_ids"])
    found = [Head(opening, opening + sentence), Head((), sentence)]
    if template.exists:
        turns = _chat_head(template, instruction)
        if is_chat or (turns.before and turns.before != opening):
            found.insert(0, turns)
    return tuple(found)


def _chat_head(template: ChatTemplate, instruction: str) -> Head:
    """What stands before a user's words, without the instruction and with it.

    A template that knows no system's turn has it in the user's.
    """

    def before(write: Callable[[str], Sequence[tuple[str, str]]]) -> tuple[int, ...]:
        one, other = token_ids(
            template.tokenizer, [template.prompt(write(words)) for words in ("a", "The")]
        )
        return tuple(one[: common_length(one, other)])

    without = before(lambda words: [("user", words)])
    try:
        with_it = before(lambda words: [("system", instruction), ("user", words)])
    except RecipeError:
        with_it = before(lambda words: [("user", f"{instruction}\n{words}")])
    return Head(without, with_it)


@dataclass(frozen=True)
class Prompted(Intervention):
    """The decoder reads an instruction first; nobody sees what it gives at those positions."""

    heads: tuple[Head, ...]

    @property
    def touched(self) -> int:
        """Tokens that are added."""
        return max(len(head.after) - len(head.before) for head in self.heads)

    def applied(self, model: LanguageModel, strength: float) -> AbstractContextManager[object]:
        """Put it in front of each text where a text begins; at strength 0 do nothing.

        Raises:
            UnsupportedModelError: inside, if the decoder is not given token ids.
        """
        if strength <= 0:
            return nullcontext()
        decoder = Halves(model.model).decoder
        forward = decoder.forward
        takes_positions = "position_ids" in inspect.signature(forward).parameters
        fronts: WeakKeyDictionary[Any, Front] = WeakKeyDictionary()  # by cache

        def prompted(input_ids: Any = None, *given: Any, **named: Any) -> Any:
            if input_ids is None or given:
                raise UnsupportedModelError(
                    f"{type(decoder).__name__} is not given token ids by name; leave "
                    "system-prompt out with --method"
                )
            mask, cache = named.get("attention_mask"), named.get("past_key_values")
            front, ids = None if cache is None else fronts.get(cache), input_ids
            is_first = front is None
            if cache is None or front is None:
                mask = torch.ones_like(ids) if mask is None else mask
                front, ids, mask = put_in_front(ids, mask, self.heads)
            else:
                mask = front.extended(mask, cache.get_seq_length() + ids.shape[1])
            named["attention_mask"] = mask
            if takes_positions:
                named["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            output = forward(input_ids=ids, **named)
            if is_first:
                output.last_hidden_state = output.last_hidden_state[:, front.width :]
                cache = getattr(output, "past_key_values", None)
                if cache is not None:
                    fronts[cache] = front
            return output

        return replaced_forward(decoder, prompted)


@dataclass(frozen=True)
class Front:
    """What was put in front of a batch."""

    width: int  # positions by which it grew
    mask: torch.Tensor  # after that, [n, width + t]

    def extended(self, mask: torch.Tensor | None, length: int) -> torch.Tensor:
        """The mask of a later step, [n, length], of all tokens in the cache and in this step.

        Without the instruction it is [n, length - width]; None means all ones.
        """
        count, known = self.mask.shape
        if mask is None:
            later = self.mask.new_ones(count, length - known)
        else:
            later = mask[:, known - self.width :]
        return torch.cat([self.mask, later], dim=1)


def put_in_front(
    ids: torch.Tensor, mask: torch.Tensor, heads: Sequence[Head]
) -> tuple[Front, torch.Tensor, torch.Tensor]:
    """Token ids and mask, [n, width + t], of texts that begin with an instruction.

    Without it they are [n, t], padded on either side. Of the heads the last one fits all texts.

    A text's own tokens stay where they were, counted from the end. The instruction ends where its
    own beginning did, so that the token behind it is predicted at the place where it was before.
    """
    starts = mask.argmax(1).tolist()
    chosen = [
        next(head for head in heads if tuple(row[start:][: len(head.before)]) == head.before)
        for row, start in zip(ids.tolist(), starts, strict=True)
    ]
    width = max(max(0, len(head.after) - len(head.before)) for head in chosen)
    longer = torch.nn.functional.pad(ids, (width, 0))
    seen = torch.nn.functional.pad(mask, (width, 0))
    for row, (start, head) in enumerate(zip(starts, chosen, strict=True)):
        end = width + start + len(head.before)
        seen[row, :end] = 0
        seen[row, end - len(head.after) : end] = 1
        longer[row, end - len(head.after) : end] = longer.new_tensor(head.after)
    return Front(width, seen), longer, seen
