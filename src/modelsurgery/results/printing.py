"""Tables as plain text, for a terminal and for `print`."""

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from modelsurgery.results.evaluations import EvaluationResults
from modelsurgery.results.notes import evaluation_notes
from modelsurgery.results.tables import Table, evaluation_tables


def evaluation_headline(results: EvaluationResults) -> str:
    """What was measured, of which model."""
    edits = ", ".join(results.edits) or "no edit"
    behavior = results.behavior
    title = f" ({behavior.title})" if behavior.title else ""
    return f"{behavior.name}{title}, model {results.model.name}, {edits}"


def printed(results: EvaluationResults) -> str:
    """An evaluation as text: headline, tables, notes."""
    tables = (text_of(table) for table in evaluation_tables(results))
    notes = "\n".join(evaluation_notes(results))
    return "\n\n".join([evaluation_headline(results), *tables, notes])


def text_of(table: Table) -> str:
    """A table in one piece."""
    return "\n".join(part for part in (table.caption, *table_lines(table), table.note) if part)


def table_lines(table: Table) -> list[str]:
    """A table's head and rows, columns as wide as they need to be: nothing is cut."""
    words = [0, *(place for place, head in enumerate(table.heads) if head == "change is")]
    return aligned([table.heads, *table.lines()], words)


def aligned(lines: Sequence[Sequence[str]], words: Sequence[int], gap: str = "  ") -> list[str]:
    """Lines of cells in columns; those of `words` are read from the left, numbers from the right.

    >>> aligned([("a", "1"), ("bb", "10")], [0])
    ['a    1', 'bb  10']
    """
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    return [
        gap.join(
            set_cell_size(cell, width) if place in words else " " * (width - cell_len(cell)) + cell
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
