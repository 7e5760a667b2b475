"""What the registry of corpora may say, and the registry itself (`corpora.yaml`)."""

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from modelsurgery.files.schema import parse

Use = Literal["probe", "prompts", "judge", "capability"]
Names = Annotated[list[str], Field(min_length=1)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileFormat(_Entry):
    """How a file holds its rows."""

    # `delimited`, `jsonl` (an object a line), `json` (a list of objects), `lines` (a text a line,
    # column `text`), `tree` (YAML: nested keys with lists of texts at the ends, columns `text` and
    # `path`) or `whole` (one row, column `text`).
    kind: Literal["delimited", "jsonl", "json", "lines", "tree", "whole"]
    # Between the fields of a delimited file.
    delimiter: str = Field(",", min_length=1, max_length=1)
    # Whether fields may stand in quotation marks; else these are ordinary characters.
    quoted: bool = True
    header: bool = True  # whether the first line of a delimited file names the columns
    # Columns that make the first line a header all the same, where a corpus is also published in a
    # form with one; `HubSource.rename` then applies.
    header_with: list[str] = []
    columns: list[str] = []  # the columns in order; with a header, those that must be there
    # Lines with another number of fields that the published file has; they are left out, and a file
    # with more of them is refused.
    ragged: int = Field(0, ge=0)
    levels: list[str] = []  # columns that the keys of a tree fill, from the outermost
    # Whether the two characters `\n` stand for a line break in the column `text`.
    unescape: bool = False


class HubSource(_Entry):
    """Where the Hugging Face Hub has the corpus."""

    id: str  # of the data set
    config: str | None = None  # its configuration, where it has several
    revision: str | None = None  # the commit that was looked at, where known
    # The Hub's split by ours, the default one first; empty for all splits at once, each of which
    # then counts as a file of that name.
    splits: dict[str, str] = {}
    rename: dict[str, str] = {}  # our column by the Hub's, where they differ


class Label(_Entry):
    """How a row says which class it is of."""

    column: str  # the column with the label or labels
    separator: str | None = None  # between several labels of a row
    names: list[str] = []  # names of labels that are stored as numbers, from 0
    classes: dict[str, Names]  # labels by class; a row with labels of two classes is of neither


class TextColumn(_Entry):
    """A column with a text, and which class the text is of."""

    column: str
    is_class: str | None = None  # the class of all its texts
    # Column with the share, 0 to 1, of people (or the probability) that call the text toxic; the
    # class is `toxic` from 0.5, else `other`. Without either, the row's label.
    score: str | None = None
    optional: bool = False  # whether the text may be missing


class PromptColumns(_Entry):
    """Which columns make a prompt; the words are those of `Prompt`."""

    text: str
    category: str | None = None
    form: str | None = None
    group: str | None = None
    chat: bool = False
    toxicity: str | None = None
    continuation_toxicity: str | None = None
    where: dict[str, Names] = {}  # rows that are taken: accepted values by column
    per_file: int | None = Field(None, ge=1)  # at most so many prompts of each file


class QuestionColumns(_Entry):
    """Which columns make a question with its answer."""

    question: str  # the column with the question
    # The column with the answer; None: it is a part of the question's column.
    answer: str | None = None
    # Of the answer's column, with a part named `answer` (and `question`, where one column holds
    # both).
    pattern: re.Pattern[str]


class Corpus(_Entry):
    """A public data set: where it is, how it is stored, what its rows mean."""

    name: str  # what we call it
    title: str  # one line on what it is
    license: str  # of the data, as published; empty where none is stated
    home: str  # where its authors published it
    published: str  # its published size
    uses: Annotated[list[Use], Field(min_length=1)]  # what it is for
    folders: list[str] = []  # other names that folders with a copy have
    format: FileFormat  # how its files hold rows
    # Patterns of file names by split, the default split first; each must be there.
    files: Annotated[dict[str, Names], Field(min_length=1)]
    # Parts of a file's name (without suffix) that become columns.
    file_name: re.Pattern[str] | None = None
    id: list[str] = []  # columns that identify a row, where the published files have them
    label: Label | None = None  # how a row says which class it is of
    texts: list[TextColumn] = []  # the columns with texts
    group: str | None = None  # column by which texts belong together (a sentence and its rewrites)
    shows: list[str] = []  # classes that show the behavior (label 1)
    opposite: list[str] = []  # classes that show its opposite (label 0); other classes are left out
    prompts: PromptColumns | None = None  # the columns of prompts
    questions: QuestionColumns | None = None  # the columns of questions with answers
    passages: str | None = None  # the column with running text
    hub: HubSource | None = None  # where the Hub has it; None where it does not
    packaged: bool = False  # whether its files ship with the package

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that its texts can be of."""
        fixed = [column.is_class for column in self.texts if column.is_class]
        scored = ["toxic", "other"] if any(column.score for column in self.texts) else []
        return tuple(dict.fromkeys([*(self.label.classes if self.label else ()), *fixed, *scored]))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not (self.texts or self.prompts or self.questions or self.passages):
            raise ValueError("expected texts, prompts, questions or passages")
        if self.texts and not (self.shows and self.opposite):
            raise ValueError("expected classes under shows and opposite")
        if unknown := {*self.shows, *self.opposite} - {*self.classes}:
            raise ValueError(f"classes {sorted(unknown)}; expected some of {self.classes}")
        return self


@cache
def corpora() -> Mapping[str, Corpus]:
    """All corpora by name, in the order of the data file."""
    content = resources.files("modelsurgery.data.corpora").joinpath("corpora.yaml").read_bytes()
    entries = [parse(entry, Corpus, "corpora.yaml") for entry in yaml.safe_load(content)]
    return MappingProxyType({entry.name: entry for entry in entries})
