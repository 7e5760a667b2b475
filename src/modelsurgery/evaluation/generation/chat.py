"""Prompts as a model reads them, and answers without what a model thought before."""

import re
from collections.abc import Sequence
from typing import Any

import jinja2

from modelsurgery.errors import RecipeError
from modelsurgery.evaluation.generation.decoding import Decoding

# Opening and closing marks of DeepSeek R1, Qwen 3, GLM and others; of Magistral; of Seed-OSS.
THINKING = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<thinking>", "</thinking>"),
)


def as_read(tokenizer: Any, prompt: str, decoding: Decoding) -> str:
    """The prompt in the chat template, where it is a user's turn and there is one.

    The template's own token for the beginning is left to the tokenizer, which adds it.
    """
    if not decoding.chat or not tokenizer.chat_template:
        return prompt
    return turns_as_read(tokenizer, [("user", prompt)], thinking=decoding.thinking)


def turns_as_read(
    tokenizer: Any, turns: Sequence[tuple[str, str]], *, thinking: bool = False
) -> str:
    """A conversation in the chat template, up to where the model answers.

    Args:
        tokenizer: has a chat template.
        turns: who speaks (`system`, `user`, `assistant`) and what they say, the last one a user.
        thinking: let a model think that can.

    Raises:
        RecipeError: the template refuses it, as some do a system's turn.
    """
    try:
        whole: str = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in turns],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=thinking,  # templates that know no such thing ignore it
        )
    except jinja2.TemplateError as error:
        raise RecipeError(
            f"the model's chat template refuses this conversation ({str(error)[:200]}); leave out "
            "--system, if you gave one"
        ) from error
    return whole.removeprefix(tokenizer.bos_token or "")


def without_thinking(text: str, read: str = "") -> tuple[str, str | None]:
    """The answer, and what was thought before it, None if nothing was.

    A block that is not closed leaves an empty answer: the model never came to one.

    Args:
        text: what the model wrote.
        read: what it had read; some templates open the block there.
    """
    for opening, closing in THINKING:
        is_open = read.rstrip().endswith(opening)
        found = re.match(rf"\s*{re.escape(opening)}", text)
        if not is_open and found is None and closing not in text:
            continue
        inside = text[found.end() :] if found else text
        thought, closed, answer = inside.partition(closing)
        return (answer.strip() if closed else ""), thought.strip()
    return text, None
