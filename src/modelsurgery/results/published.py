"""What others have published on behaviors of language models, kept apart from what we measure.

The numbers stand in `published.yaml`, each with the paper, model and judge that it comes from.
Whatever shows a published number takes it from there.
"""

from functools import cache
from importlib import resources
from typing import Literal

import yaml
from pydantic import Field, model_validator

from modelsurgery.files.schema import parse
from modelsurgery.results.parts import Direction, Part
from modelsurgery.results.rivals import RivalsResults, RivalSummary

PAPER = "model-surgery"  # the source that this library follows


class PublishedColumn(Part):
    """What a column of a published table measures."""

    title: str
    unit: Literal["%", "perplexity", "nats"] = "%"
    judge: str = ""  # who decided; empty where nobody had to
    prompts: str = ""  # corpus of the prompts, as behaviors name it; empty where they have none
    task: str = ""  # capability task, as `--task` names it; empty for any other measure


class PublishedRow(Part):
    """A method in a published table."""

    method: str
    same_as: str = ""  # in `surgery rivals` or `surgery ablations`; empty where neither has it
    is_base: bool = False  # whether it is the model before any change
    model: str = ""  # of which model; empty is that of the table
    values: list[float]  # one for each column


class PublishedTable(Part):
    """A table that others published."""

    name: str
    # Methods side by side, or one thing changed at a time.
    kind: Literal["rivals", "ablations"] = "rivals"
    title: str
    source: str  # key of its source
    where: str = ""  # in the source; empty where that is not known
    note: str = ""  # what to know before citing it
    behavior: str
    direction: Direction
    model: str = ""  # of which model; empty where rows name theirs
    columns: dict[str, PublishedColumn]  # what was measured, by name
    rows: list[PublishedRow] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> "PublishedTable":
        for row in self.rows:
            if len(row.values) != len(self.columns):
                raise ValueError(f"{self.name}, {row.method}: not one value for each column")
            if not (row.model or self.model):
                raise ValueError(f"{self.name}, {row.method}: names no model")
        return self

    def model_of(self, row: PublishedRow) -> str:
        """Which model a row is of."""
        return row.model or self.model

    def value(self, column: str, row: PublishedRow) -> float:
        """A row's value in a column."""
        return row.values[list(self.columns).index(column)]


class Published(Part):
    """All that is in `published.yaml`."""

    sources: dict[str, str]  # how to cite each source, by its key
    tables: list[PublishedTable]  # those of the paper first

    def tables_of(self, kind: Literal["rivals", "ablations"]) -> list[PublishedTable]:
        """Tables of a command."""
        return [one for one in self.tables if one.kind == kind]

    def task(self, name: str) -> tuple[str, float, float] | None:
        """The paper's model, its number of a capability task, and the same after the edit."""
        for table in self.tables:
            for column, described in table.columns.items():
                if table.source == PAPER and described.task == name:
                    base = next(row for row in table.rows if row.is_base)
                    edited = next(row for row in table.rows if row.same_as == "paper")
                    return table.model, table.value(column, base), table.value(column, edited)
        return None


@cache
def published() -> Published:
    """The published numbers that ship with the package.

    Example:
        >>> published().task("gsm8k")
        ('LLaMA2-7B', 14.6, 14.4)
    """
    file = resources.files("modelsurgery.results").joinpath("published.yaml")
    return parse(yaml.safe_load(file.read_bytes()), Published, "published.yaml")


def measured_here(
    table: PublishedTable, row: PublishedRow, results: RivalsResults | None
) -> list[RivalSummary]:
    """Our lines for the method of a published row, the lowest divergence first.

    Empty without a comparison, where it is of another behavior, direction or method, and for a
    base model, whose rates every line of ours has.
    """
    about = table.behavior, table.direction
    if results is None or about != (results.behavior.name, results.direction):
        return []
    ours = [one for one in results.summary if one.method == row.same_as]
    return sorted(ours, key=lambda one: one.target)
