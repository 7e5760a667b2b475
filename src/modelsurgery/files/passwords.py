"""Passwords in URLs, which no message repeats."""

import re

_IN_AUTHORITY = re.compile(r"(://[^:/@\s]*):\S*@")
_IN_QUERY = re.compile(r"([?&]\w*pass\w*=)[^&\s'\"]*", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """A text with `***` for the passwords of its URLs.

    Example:
        >>> without_passwords("postgresql://me:secret@db.example/surgery")
        'postgresql://me:***@db.example/surgery'
    """
    return _IN_QUERY.sub(r"\1***", _IN_AUTHORITY.sub(r"\1:***@", text))
