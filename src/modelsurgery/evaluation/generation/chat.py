"""Prompts as a model reads them, and answers without what a model thought before."""

import re
from typing import Any

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
    whole: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=decoding.thinking,  # templates that know no such thing ignore it
    )
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
