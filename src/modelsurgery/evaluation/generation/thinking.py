"""Answers without what a model thought before it came to them."""

import re
from typing import Any

# Opening and closing marks of DeepSeek R1, Qwen 3, GLM and others; of Magistral; of Seed-OSS; of
# Gemma 4; of Cohere; of Apertus; of Exaone Deep; of Kimi. A space stands for any, or none.
THINKING = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<thinking>", "</thinking>"),
    ("<|channel> thought", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<thought>", "</thought>"),
    ("◁think▷", "◁/think▷"),
)
# gpt-oss writes messages, each with the name of its channel; the answer's is `final`.
SPEAKER = "<|start|>assistant"
CHANNEL = "<|channel|>"
MESSAGE = re.compile(
    r"<\|channel\|>\s*(?P<name>\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"(?P<content>.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
FINAL = "final"
# What a response template may call a thought (transformers 5.23 knows these names).
THOUGHT_FIELDS = ("reasoning_content", "thinking", "reasoning")
# What transformers' parser raises when a model writes what its response template has no place for.
PARSER_ERRORS = (LookupError, TypeError, ValueError)


def answer_and_thought(tokenizer: Any, text: str, read: str) -> tuple[str, str | None] | None:
    """The answer, and what was thought before it; None for a text in which nothing is marked.

    The tokenizer's own response template decides where it has one, else the marks of known
    families. A thought that is not closed leaves an empty answer: the model never came to one.
    The text is what the model wrote, special tokens included, behind what it had read.
    """
    found = _parsed(tokenizer, text, read) or _of_channels(text, read)
    answer, thought = found or without_thinking(text, read)
    if found is None and thought is None:
        return None
    return _without_special(tokenizer, answer).strip(), thought


def without_thinking(text: str, read: str = "") -> tuple[str, str | None]:
    """The answer, and what was thought between known marks before it, None if nothing was.

    Some templates open the thought in what is read.
    """
    for opening, closing in THINKING:
        mark = r"\s*".join(map(re.escape, opening.split()))
        begins = re.compile(rf"\A\s*{mark}")
        is_open = re.search(rf"{mark}\s*\Z", read) is not None
        if not is_open and begins.match(text) is None and closing not in text:
            continue
        thoughts: list[str] = []
        closed, rest = "", text
        while not thoughts or (closed and begins.match(rest)):
            thought, closed, rest = begins.sub("", rest).partition(closing)
            thoughts.append(thought.strip())
        return (rest.strip() if closed else ""), "\n\n".join(thoughts)
    return text, None


def _of_channels(text: str, read: str) -> tuple[str, str | None] | None:
    """Answer and thought of messages with channels; a message may have begun in what was read."""
    whole = (read.rpartition(SPEAKER)[2] if SPEAKER in read else "") + text
    if CHANNEL not in whole:
        return None
    messages = [(one["name"], one["content"].strip()) for one in MESSAGE.finditer(whole)]
    answers = [content for name, content in messages if name == FINAL]
    thoughts = [content for name, content in messages if name != FINAL]
    return "\n\n".join(answers), "\n\n".join(thoughts) if thoughts or not answers else None


def _parsed(tokenizer: Any, text: str, read: str) -> tuple[str, str | None] | None:
    """Answer and thought as the tokenizer's own response template parts them."""
    if getattr(tokenizer, "response_template", None) is None:
        return None
    try:
        message = tokenizer.parse_response(text, prefix=read)
    except PARSER_ERRORS:
        return None
    thought = next((message[name] for name in THOUGHT_FIELDS if message.get(name)), None)
    answer = message.get("content")
    if not isinstance(answer, str | None) or (answer is None and thought is None):
        return None
    return answer or "", None if thought is None else str(thought)


def _without_special(tokenizer: Any, text: str) -> str:
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    for special in sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True):
        text = text.replace(special, "")
    return text
