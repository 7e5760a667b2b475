"""Lines and tables on a console, always as text: nothing that a stranger wrote is markup."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelsurgery.results.printing import aligned

BAR = 24  # letters of the longest bar of a table


def print_line(line: str, console: Console, style: str = "") -> None:
    """Print a line."""
    console.print(Text(line, style=style))


def print_lines(lines: Iterable[str], console: Console, style: str = "") -> None:
    """Print lines, all in one style."""
    for line in lines:
        print_line(line, console, style)


def print_aligned(
    lines: Sequence[Sequence[str]], words: Sequence[int], console: Console, gap: str = "  "
) -> None:
    """Print cells in columns, heads first; see `aligned`."""
    head, *rest = aligned(lines, words, gap)
    print_line(head, console, "bold")
    print_lines(rest, console)


def print_section(title: str, table: Table, console: Console, note: str | None = None) -> None:
    """Print a table below a line without anything and its title."""
    console.print()
    print_line(title, console, "bold")
    console.print(table)
    if note is not None:
        print_line(note, console, "dim")


def columns(heads: Sequence[str], lines: Iterable[Iterable[str]], words: int = 1) -> Table:
    """A table of numbers, followed by so many columns of words."""
    table = Table(box=None, pad_edge=False)
    for place, head in enumerate(heads, words - len(heads)):
        if place < 0:
            table.add_column(head, justify="right", no_wrap=True)
        else:
            table.add_column(head)
    for line in lines:
        table.add_row(*map(Text, line))
    return table
