"""Text of a model or a stranger's file, made safe to show: without what could steer a terminal."""


def printable(text: str) -> str:
    """The text with its line breaks, and without what could steer a terminal."""
    return "\n".join(
        "".join(letter for letter in line if letter.isprintable())
        for line in text.expandtabs(4).split("\n")
    )


def in_one_line(text: str) -> str:
    """The same in one line, its breaks shown as ⏎."""
    return printable(text).replace("\n", " ⏎ ")
