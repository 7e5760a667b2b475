"""A conversation with a base model and its edited self at once, and its commands; no terminal.

Both answer the same prompts with the same random numbers, so that what differs is the edit's doing.
A model with a chat template remembers the conversation, each side its own; one without continues
each prompt by itself.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from modelsurgery.apply.in_memory import edited, edited_per_part, takes_parts
from modelsurgery.edit.edit import Edit
from modelsurgery.errors import RecipeError
from modelsurgery.evaluation.generation import Continuation, Decoding
from modelsurgery.evaluation.generation.local import continuation_of, new_tokens
from modelsurgery.evaluation.generation.reading import end_tokens
from modelsurgery.evaluation.generation.sampling import UniformSampling
from modelsurgery.model.chat_template import Text, plain
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.token_ids import opening_ids, without_beginning

MOST_STRENGTH = 1000.0
SECONDS_BETWEEN_PIECES = 0.05  # decoding a long answer anew at each token would take its time
NOTHING = Continuation("", 0, False)

CHANGES = ("/strength", "/off", "/on", "/sample", "/seed", "/greedy", "/reset")
WITH_VALUE = ("/strength", "/sample", "/seed")
WITHOUT_STATE = ("/again", "/help")  # they change nothing of how answers are made
HELP = """/strength X  scale the edit by X: 0.5 halves it, -1 reverses it
/off, /on    turn the edit off or on
/again       answer the last prompt again with the current settings
/sample T    sample at temperature T (1 if left out)
/seed N      sample with another seed; the same seed gives the same answer
/greedy      always take the most probable token
/reset       clear the conversation
/quit        leave (also Ctrl-D); Ctrl-C stops an answer"""


@dataclass(frozen=True)
class Exchange:
    """A prompt with both answers, or as much of them as there is while they are written."""

    prompt: str
    base: Continuation
    edited: Continuation
    strength: float  # factor of the edit: 1 as it is, 0 without it
    decoding: Decoding
    seconds: float  # since the question

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "prompt": self.prompt,
            "base": asdict(self.base),
            "edited": asdict(self.edited),
            "strength": self.strength,
            "seed": self.decoding.seed,
            "temperature": None if self.decoding.seed is None else self.decoding.temperature,
            "seconds": self.seconds,
        }


Show = Callable[[Exchange], None]
Say = Callable[[str], None]


class Conversation:
    """A model, edits of it, and what was said so far.

    Attributes:
        decoding: how answers are made; may be set between two prompts.
        strength: factor of the edits; may be set.
        is_on: whether the edits are applied; without them the edited side is the base model with
            its own memory.
        exchanges: what was said so far.
        is_stopped: whether the last answers were stopped.

    Example:
        >>> conversation = Conversation(model, [edit])  # doctest: +SKIP
        ... conversation.strength = 0.5
        ... print(conversation.ask("Who are you?").edited.text)
    """

    def __init__(
        self,
        model: LanguageModel,
        edits: Sequence[Edit],
        *,
        decoding: Decoding | None = None,
        system: str | None = None,
    ) -> None:
        """See that the edits fit the model; nothing is generated yet.

        Args:
            model: the base model.
            edits: applied together.
            decoding: how answers are made; None is greedy. Its `max_new_tokens` is cut to half of
                the model's context, so that something can be read, too.
            system: what a chat model is told before the conversation.

        Raises:
            EditMismatchError: an edit is not for this model.
            RecipeError: a system text for a model without a chat template, or several templates
                and no choice.
        """
        self._model, self._edits, self._system = model, tuple(edits), system
        with edited(model.model, *edits):
            self._is_together = takes_parts(model.model, model.layout)
        if system is not None and not self.is_chat:
            raise RecipeError("--system is for models with a chat template, and this one has none")
        if self.is_chat:
            _ = model.template.source  # refused before something is asked
        decoding = decoding or Decoding()
        longest = max(1, model.context_length // 2)
        if decoding.max_new_tokens > longest:
            model.warn(
                f"answers end after {longest} tokens instead of {decoding.max_new_tokens}: half "
                "of the model's context"
            )
        self.decoding = replace(decoding, max_new_tokens=min(decoding.max_new_tokens, longest))
        self.strength, self.is_on = 1.0, True
        self.exchanges: list[Exchange] = []
        self.is_stopped = False

    @property
    def is_chat(self) -> bool:
        """Whether the model has a chat template, and so a memory."""
        return self._model.template.exists

    @property
    def factor(self) -> float:
        """What the edits are multiplied with: the strength, or 0 while they are off."""
        return self.strength if self.is_on else 0.0

    def set_strength(self, strength: float) -> None:
        """Make the edits `strength` times as strong; a negative one turns them round.

        Raises:
            RecipeError: not a number that an edit can be multiplied with.
        """
        if not abs(strength) <= MOST_STRENGTH:  # NaN is refused too
            raise RecipeError(
                f"strength {strength}; expected a factor from -{MOST_STRENGTH:.0f} to "
                f"{MOST_STRENGTH:.0f}, where 1 is the edit as it is"
            )
        self.strength, self.is_on = strength, True

    def ask(self, prompt: str, show: Show | None = None) -> Exchange:
        """Let both sides answer.

        Args:
            prompt: what is said, or for a model without a chat template, what is continued.
            show: is given what there is of the answers while they are written, and the end.

        Returns:
            Both answers, which are remembered. After `stop` they are as long as they were then.

        Raises:
            RecipeError: the edited rows overflow, or the chat template refuses the conversation.
        """
        self.is_stopped = False
        telling = _Telling(self, prompt, show)
        reads = [self._read(prompt, side) for side in ("base", "edited")]
        edits = tuple(one.scaled(self.factor) for one in self._edits if self.factor)
        if self._is_together:
            changed = edited_per_part(self._model.model, [(), edits]) if edits else nullcontext()
            self._answer(reads, changed, telling, 0)
        else:
            for side, (read, some) in enumerate(zip(reads, [(), edits], strict=True)):
                self._answer([read], edited(self._model.model, *some), telling, side)
        exchange = telling.exchange()
        self.exchanges.append(exchange)
        return exchange

    def stop(self) -> None:
        """End the answers that are being written, after the token that comes next."""
        self.is_stopped = True

    def reset(self) -> None:
        """Forget what was said."""
        self.exchanges.clear()

    def take_back(self) -> str | None:
        """Forget the last exchange; gives its prompt, None if there is none."""
        return self.exchanges.pop().prompt if self.exchanges else None

    def _answer(
        self,
        reads: Sequence[Text],
        changed: AbstractContextManager[Any],
        telling: "_Telling",
        first: int,
    ) -> None:
        """Let the sides from `first` on write, as many as there are texts to read."""
        model, decoding = self._model, self.decoding
        room = max(1, model.context_length - decoding.max_new_tokens)
        opening = opening_ids(model.tokenizer)
        kept = [without_beginning(ids, room, opening) for ids in model.token_ids(reads)]
        inputs = model.batch_of(kept, side="left")
        width, ends = inputs["input_ids"].shape[1], end_tokens(model, self.is_chat)
        processors: list[LogitsProcessor] = []
        if decoding.seed is not None:
            rows = [(telling.prompt, decoding.seed)] * len(reads)
            steps = decoding.max_new_tokens
            processors.append(UniformSampling(rows, decoding.temperature, steps))

        def tell(rows: torch.Tensor) -> None:
            for row, (ids, read) in enumerate(zip(rows.tolist(), reads, strict=True)):
                said = continuation_of(model.tokenizer, ids, ends, decoding, plain(read))
                telling.said[first + row] = said

        with changed, torch.inference_mode():
            watch = _Watch(self, width, lambda rows: telling.piece(lambda: tell(rows)))
            tell(new_tokens(model, inputs, decoding.max_new_tokens, ends, processors, [watch]))
        telling.tell()

    def _read(self, prompt: str, side: str) -> Text:
        """What a side reads: the conversation, without its beginning if it has become too long."""
        if not self.is_chat:
            return prompt
        model = self._model
        room = model.context_length - self.decoding.max_new_tokens
        system = [] if self._system is None else [("system", self._system)]
        for start in range(len(self.exchanges) + 1):
            turns = [
                turn
                for one in self.exchanges[start:]
                for turn in (("user", one.prompt), ("assistant", getattr(one, side).text))
            ]
            read = model.template.prompt(
                [*system, *turns, ("user", prompt)], thinking=self.decoding.thinking
            )
            if len(model.token_ids([read])[0]) <= room:
                break
        return read


class _Telling:
    """What both sides have said of an exchange, and whom to tell."""

    def __init__(self, conversation: Conversation, prompt: str, show: Show | None) -> None:
        self.prompt, self.said = prompt, [NOTHING, NOTHING]
        self._show, self._decoding = show, conversation.decoding
        self._factor = conversation.factor
        self._started = self._last = time.monotonic()

    def exchange(self) -> Exchange:
        base, changed = self.said
        seconds = time.monotonic() - self._started
        return Exchange(self.prompt, base, changed, self._factor, self._decoding, seconds)

    def piece(self, update: Callable[[], None]) -> None:
        """Tell of a new token, unless somebody was told a moment ago."""
        now = time.monotonic()
        if self._show is not None and now - self._last >= SECONDS_BETWEEN_PIECES:
            self._last = now
            update()
            self.tell()

    def tell(self) -> None:
        if self._show is not None:
            self._show(self.exchange())


class _Watch(StoppingCriteria):
    """Shows the new tokens [n, t] after each step, and ends all rows when it is time."""

    def __init__(
        self, conversation: Conversation, width: int, show: Callable[[torch.Tensor], None]
    ) -> None:
        self._conversation, self._width, self._show = conversation, width, show

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self._show(input_ids[:, self._width :])
        done = self._conversation.is_stopped
        return torch.full((len(input_ids),), done, device=input_ids.device)


def is_command(line: str) -> bool:
    """Whether a line says a command that there is, with a value only where it takes one."""
    name, _, value = line.strip().partition(" ")
    return line.startswith("/") and (
        name in WITH_VALUE or (not value and name in (*CHANGES, *WITHOUT_STATE))
    )


def follow(line: str, conversation: Conversation, say: Say) -> str | None:
    """Follow a command, and say what it did; or give the prompt that a line is, or asks for again.

    Raises:
        RecipeError: a value that a command cannot use.
    """
    if not line.startswith("/"):
        return line if line.strip() else None
    name, _, value = line.strip().partition(" ")
    if name == "/again":
        prompt = conversation.take_back()
        if prompt is None:
            say("there is no prompt to answer again")
        return prompt
    if name == "/help":
        say(HELP)
    elif name in CHANGES:
        _change(conversation, name, value.strip())
        say(state(conversation))
    else:
        say(f"no command {name[:40]}; expected one of /help /again {' '.join(CHANGES)} /quit")
    return None


def state(conversation: Conversation) -> str:
    """How answers are made now, in one line."""
    decoding = conversation.decoding
    how = (
        "greedy"
        if decoding.seed is None
        else f"sampled at temperature {decoding.temperature:g} with seed {decoding.seed}"
    )
    memory = "" if conversation.is_chat else ", each prompt is continued on its own"
    edit = f"edit × {conversation.strength:g}" if conversation.is_on else "edit off"
    return f"{edit}, {how}, {decoding.max_new_tokens} tokens at most{memory}"


def _change(conversation: Conversation, command: str, value: str) -> None:
    """Change how answers are made; without a value, `/strength` and `/sample` take 1."""
    old = conversation.decoding
    match command:
        case "/strength":
            conversation.set_strength(_number(value or "1", command, "a factor like 0.5"))
        case "/off" | "/on":
            conversation.is_on = command == "/on"
        case "/sample":
            temperature = _number(value or "1", command, "a temperature like 0.7")
            if not temperature > 0:
                raise RecipeError(
                    f"/sample {value}; expected a temperature above 0, or use /greedy"
                )
            conversation.decoding = replace(old, temperature=temperature, seed=old.seed or 0)
        case "/seed":
            if not value.isdecimal() or int(value) >= 1 << 32:
                raise RecipeError(
                    f"/seed {value[:20]}; expected a whole number from 0 to {(1 << 32) - 1}"
                )
            conversation.decoding = replace(old, seed=int(value))
        case "/greedy":
            conversation.decoding = replace(old, seed=None)
        case "/reset":
            conversation.reset()


def _number(value: str, command: str, expected: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RecipeError(f"{command} {value[:20]}; expected {expected}")
    return number
