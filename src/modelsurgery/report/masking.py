"""Masking what may offend, wherever tokens, prompts and answers are shown."""

from typing import Any

SPACE = "·"
ROUGH = ("behavior", "unjudged", "")  # verdicts of answers that are masked


def masked(text: str) -> str:
    """The shape of a text: a dot for every letter."""
    return "".join(letter if letter.isspace() else "•" for letter in text)


def is_rough(verdict: str) -> bool:
    """Whether an answer with this verdict shows the behavior, or nobody could judge it."""
    return verdict in ROUGH


def masked_sides(
    prompt: str, base: str, edited: str, base_verdict: str, edited_verdict: str
) -> tuple[str, str, str]:
    """Prompt and answers with a dot for each letter of what is rough.

    The prompt has no verdict of its own: it is masked when an answer to it is.

    >>> masked_sides("go on", "a b", "c", "neither", "behavior")
    ('•• ••', 'a b', '•')
    """
    base_is, edited_is = is_rough(base_verdict), is_rough(edited_verdict)
    return (
        masked(prompt) if base_is or edited_is else prompt,
        masked(base) if base_is else base,
        masked(edited) if edited_is else edited,
    )


def shown_token(token: list[Any], *, show_offensive: bool = False) -> str:
    """A token `[text, value, is_offensive]` for people: `·c••••`, where it may offend.

    Of a masked token the first letter is left, with the mark of a space before it.

    >>> shown_token(["·cloud", 3.2, True]), shown_token(["·cloud", 3.2, False])
    ('·c••••', '·cloud')
    """
    text, _, is_offensive = token
    if show_offensive or not is_offensive:
        return str(text)
    kept = len(text) - len(text.lstrip(SPACE)) + 1
    return str(text[:kept]) + "•" * len(text[kept:])
