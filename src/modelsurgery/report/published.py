"""Published tables in a terminal, clearly apart from what was measured here."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console

from modelsurgery.report.lines import print_aligned, print_line, print_lines
from modelsurgery.report.untrusted import in_one_line
from modelsurgery.results.published import (
    Published,
    PublishedColumn,
    PublishedRow,
    PublishedTable,
    measured_here,
)
from modelsurgery.results.rivals import RivalsResults
from modelsurgery.results.tables import shown

APART = "Published by others. This library measured none of these numbers."
BAR = "|"  # between what was published and what was measured here


def print_published(
    tables: Sequence[PublishedTable],
    published: Published,
    results: RivalsResults | None,
    console: Console,
) -> None:
    """Print published tables, and beside them what a comparison measured of the same methods."""
    print_line(APART, console, "bold")
    for table in tables:
        console.print()
        print_line(f"{table.title} ({table.name})", console, "bold")
        print_aligned(_cells(table, results), [0], console)
        print_lines(_notes(table, published), console, "dim")
    if results is not None:
        console.print()
        print_line(in_one_line(_note_of_run(tables, results)), console)


def published_json(
    tables: Sequence[PublishedTable], published: Published, results: RivalsResults | None
) -> dict[str, Any]:
    """The same as plain values; `here` is what a comparison measured."""
    return {
        "published": [
            {
                **table.model_dump(mode="json", exclude={"rows"}),
                "source": published.sources[table.source],
                "rows": [_row_json(table, row, results) for row in table.rows],
            }
            for table in tables
        ],
        "here": None
        if results is None
        else {
            "model": results.model.name,
            "behavior": results.behavior.name,
            "direction": results.direction,
            "prompts": list(results.prompts),
            "judge": results.judges[0].name,
        },
    }


def _row_json(
    table: PublishedTable, row: PublishedRow, results: RivalsResults | None
) -> dict[str, Any]:
    here = measured_here(table, row, results)
    return {
        **row.model_dump(mode="json", exclude={"values"}),
        "model": table.model_of(row),
        "values": dict(zip(table.columns, row.values, strict=True)),
        "here": [one.model_dump(mode="json") for one in here],
    }


def _cells(table: PublishedTable, results: RivalsResults | None) -> list[list[str]]:
    """Heads and lines, with a column for each divergence that a row was measured at here."""
    here = [measured_here(table, row, results) for row in table.rows]
    targets = sorted({one.target for some in here for one in some})
    heads = ["method", "model", *(_head(one) for one in table.columns.values())]
    by_column = map(_numbers, zip(*(row.values for row in table.rows), strict=True))
    lines = [
        [row.method, table.model_of(row), *numbers]
        for row, numbers in zip(table.rows, zip(*by_column, strict=True), strict=True)
    ]
    if targets:
        heads += [BAR, *(f"here, KL {target:g}" for target in targets)]
        for line, some in zip(lines, here, strict=True):
            by_target = {
                one.target: f"{one.greedy[0].rate:.1%} → {shown(one.greedy[1])}" for one in some
            }
            line += [BAR, *(by_target.get(target, "") for target in targets)]
    return [heads, *lines]


def _numbers(values: Sequence[float]) -> list[str]:
    """Values of a column, with decimals for all if one has some."""
    has_decimals = any(value % 1 for value in values)
    return [f"{value:.1f}" if has_decimals and not value % 1 else f"{value:g}" for value in values]


def _head(column: PublishedColumn) -> str:
    return f"{column.title}, %" if column.unit == "%" else column.title


def _notes(table: PublishedTable, published: Published) -> Iterator[str]:
    where = f", {table.where}" if table.where else ""
    yield f"source: {published.sources[table.source]}{where}"
    judges: dict[str, list[str]] = {}
    for column in table.columns.values():
        if column.judge:
            judges.setdefault(column.judge, []).append(column.title)
    for judge, titles in judges.items():
        yield f"judge of {', '.join(titles)}: {judge}"
    if table.note:
        yield f"note: {table.note}"


def _note_of_run(tables: Sequence[PublishedTable], results: RivalsResults) -> str:
    name, count = results.prompts
    if not any(measured_here(table, row, results) for table in tables for row in table.rows):
        return (
            f"nothing to put beside them: {results.behavior.name} with the direction "
            f"{results.direction} was measured on {results.model.name}, by methods that no table "
            "has"
        )
    return (
        f"here: {results.model.name}, greedy rates of {results.behavior.name} before and after on "
        f"{count} prompts ({name}), judge {results.judges[0].name}, each method at the same KL in "
        "nats per token. Model, prompts and judge differ from those of the published tables, so "
        "compare the order of methods, not the numbers."
    )
