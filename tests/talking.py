"""Tiny tokenizers with the special tokens and chat templates of published families."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from tiny import SPECIAL, WORDS, write_tiny_model

VOCABULARY = 128
ROLES = ("system", "user", "assistant", "model", "you", "help", "\n")
# SmolLM2: BOS is the mark of each turn, the tokenizer adds nothing, a system turn comes unasked.
SMOLLM_2 = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nyou help<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Qwen: no BOS at all in the template.
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
LLAMA = "{{ bos_token }}" + QWEN
# SmolVLM, Idefics, Llava: contents are lists of parts.
PARTS = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }} "
    "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
)
DATED = (
    "{{ bos_token }}{% if not date is defined %}{% set date = strftime_now('%d %b %Y') %}"
    "{% endif %}today {{ date }} {% for m in messages %}{{ m['role'] }} {{ m['content'] }} "
    "{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
)
TURN_MARKS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")


def talking_tokenizer(
    template: str | dict[str, str] | None,
    *,
    opening: Sequence[str] = (),
    closing: Sequence[str] = (),
    marks: Sequence[str] = TURN_MARKS,
    words: Sequence[str] = (),
    **named: str,
) -> transformers.PreTrainedTokenizerFast:
    """A word-level tokenizer.

    Args:
        template: its chat template, or several by name.
        opening: special tokens that it puts before a text.
        closing: special tokens that it puts behind a text.
        marks: special tokens besides the usual ones.
        words: words besides the usual ones.
        named: other names than <s>, </s>, … for `bos_token`, `eos_token`, ….
    """
    letters = [chr(number) for number in range(ord("0"), ord("9") + 1)]
    known = [*SPECIAL, *WORDS, *ROLES, *letters, *words, *marks]
    numbers = {word: number for number, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "removed"),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    special = [*SPECIAL, *marks]
    tokenizer.add_special_tokens([AddedToken(one, special=True) for one in special])
    if opening or closing:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join([*opening, "$A", *closing]),
            special_tokens=[(one, numbers[one]) for one in dict.fromkeys((*opening, *closing))],
        )
    names = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>"}
    names = {f"{name}_token": one for name, one in names.items()} | named
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    made.chat_template = template
    return made


def write_talking_model(
    directory: Path, tokenizer: Any, family: str = "llama", **overrides: Any
) -> Path:
    """Write a tiny random model with this tokenizer; gives the directory."""
    write_tiny_model(directory, family, vocab_size=VOCABULARY, **overrides)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink()
    tokenizer.save_pretrained(directory)
    return directory


def template_ids(tokenizer: Any, turns: Sequence[tuple[str, str]], **settings: Any) -> list[int]:
    """What transformers itself makes of a conversation, the model's answer to come."""
    messages = [{"role": role, "content": content} for role, content in turns]
    settings = {"add_generation_prompt": True, "enable_thinking": False, **settings}
    found = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **settings)
    return list(found)
