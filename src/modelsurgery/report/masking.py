"""Masking tokens that may offend, wherever tokens are shown."""

from typing import Any

SPACE = "·"


def shown_token(token: list[Any], *, show_offensive: bool = False) -> str:
    """A token `[text, value, is_offensive]` for people: `·c••••`, where it may offend.

    Of a masked token the first letter is left, with the mark of a space before it.

    >>> shown_token(["·cloud", 3.2, True]), shown_token(["·cloud", 3.2, False])
    ('·c••••', '·cloud')
    """
    text, _, is_offensive = token
    if show_offensive or not is_offensive:
        return str(text)
    spaces = len(text) - len(text.lstrip(SPACE))
    kept = spaces + 1
    return str(text[:kept]) + "•" * len(text[kept:])
