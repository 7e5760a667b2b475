"""Conversations in a model's chat template: the text that the model reads, special tokens and all.

A rendered text already has every special token that the template's author wanted, and none that
they left out. So it is a type of its own, `Rendered`: `token_ids` adds nothing to it.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from transformers.utils import chat_template_utils

from modelsurgery.errors import RecipeError

# What a template may raise besides Jinja's own errors: it calls methods of what it is given.
TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
_clock = threading.Lock()  # transformers keeps one compiled template for all threads

Turns = Sequence[tuple[str, str]]  # who speaks (`system`, `user`, `assistant`), and what they say


@dataclass(frozen=True)
class Rendered:
    """A text that holds all its special tokens, as a chat template writes it."""

    text: str


Text = str | Rendered  # what a model reads: plain text, or a text that needs no special tokens


def plain(text: Text) -> str:
    """The characters of a text."""
    return text.text if isinstance(text, Rendered) else text


@dataclass(frozen=True)
class ChatTemplate:
    r"""The chat template of a tokenizer, if it has one.

    Example:
        >>> ChatTemplate(tokenizer).prompt([("user", "Who are you?")])  # doctest: +SKIP
        Rendered(text='<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n')
    """

    tokenizer: Any  # of transformers; its template is looked up at each call
    name: str | None = None  # which of several named templates; None takes `default`
    # The time for templates that print the date, so that a run does not straddle midnight.
    now: datetime = field(default_factory=datetime.now)

    @property
    def exists(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(self.tokenizer.chat_template)

    @property
    def source(self) -> str:
        """The template, Jinja.

        Raises:
            RecipeError: there are several and none is called for, or none of that name.
        """
        known = self.tokenizer.chat_template
        if not isinstance(known, dict):
            if self.name is not None:
                raise RecipeError(
                    f"no chat template {self.name!r}: this model has "
                    f"{'one without a name' if known else 'none'}; omit --chat-template"
                )
            return str(known)
        name = "default" if self.name is None else self.name
        if name not in known:
            wrong = f"no chat template {name!r}" if self.name else "several chat templates"
            raise RecipeError(
                f"{wrong}; expected one of {', '.join(sorted(known))}, choose with --chat-template"
            )
        return str(known[name])

    def prompt(self, turns: Turns, *, thinking: bool = False) -> Rendered:
        """A conversation up to where the model answers; the last turn is a user's.

        Templates that know no thinking ignore `thinking`.

        Raises:
            RecipeError: the template refuses the turns, as some do a system's, or drops them.
        """
        return self._rendered(turns, True, thinking)

    def exchange(self, turns: Turns) -> Rendered:
        """A whole conversation, the answer to its last question included.

        Raises:
            RecipeError: the template refuses the turns, or drops them.
        """
        return self._rendered(turns, False, False)

    def _rendered(self, turns: Turns, is_prompt: bool, thinking: bool) -> Rendered:
        source = self.source

        def render(some: Turns, in_parts: bool) -> str:
            messages = [
                {"role": role, "content": [{"type": "text", "text": said}] if in_parts else said}
                for role, said in some
            ]
            whole: str = self.tokenizer.apply_chat_template(
                messages,
                chat_template=source,
                tokenize=False,
                add_generation_prompt=is_prompt,
                enable_thinking=thinking,
            )
            return whole

        with _time_stands_still(source, self.now):
            try:
                in_parts = _wants_parts(render, turns)
                return Rendered(render(turns, in_parts))
            except TEMPLATE_ERRORS as error:
                raise RecipeError(
                    f"the model's chat template rejects this conversation ({_line(error)}); omit "
                    "--system if you gave one"
                ) from error


def processor_template(directory: Path) -> str | dict[str, str] | None:
    """The template in `chat_template.json`, where processors of older vision models keep theirs.

    Their tokenizers know none (transformers 5.23), and users' turns would be read as plain text.
    """
    try:
        content = json.loads((directory / "chat_template.json").read_text(encoding="utf-8"))
        found = content["chat_template"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, str | dict) else None


def _wants_parts(render: Any, turns: Turns) -> bool:
    """Whether contents must be lists of parts: Jinja drops what a template looks up in vain.

    Seen with other words in place of each turn's own, which a template may rightly change: it may
    quote them, or leave a thought out.

    Raises:
        RecipeError: the words get lost either way.
    """
    words = [(role, f"modelsurgeryturn{number}x") for number, (role, _) in enumerate(turns)]
    failures = []
    for in_parts in (False, True):
        try:
            text = render(words, in_parts)
        except TEMPLATE_ERRORS as error:
            failures.append(error)
            continue
        if all(word in text for _, word in words):
            return in_parts
    if failures:
        return False  # the conversation itself is refused, with the template's own words
    lost = ", ".join(dict.fromkeys(role for role, word in words if word not in text))
    raise RecipeError(
        f"the model's chat template omits the content of messages ({lost}), given as a string and "
        "as a list of parts; expected one that prints the content of each turn, choose another "
        "with --chat-template"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def _time_stands_still(source: str, now: datetime) -> Iterator[None]:
    """Let `strftime_now` tell `now`.

    transformers (5.23) gives templates a clock of its own and takes no other: an argument of that
    name becomes a plain value on its way. So the clock of the compiled template is exchanged.
    """
    if "strftime_now" not in source:
        yield
        return
    try:
        clocks = chat_template_utils._compile_jinja_template(source).environment.globals
    except jinja2.TemplateError as error:
        raise RecipeError(f"the model's chat template is not valid ({_line(error)})") from error
    with _clock:
        before = clocks["strftime_now"]
        clocks["strftime_now"] = now.strftime
        try:
            yield
        finally:
            clocks["strftime_now"] = before
