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
    r"""How a file holds its rows.

    Attributes:
        kind: `delimited`, `jsonl` (an object a line), `json` (a list of objects), `lines` (a text a
            line, column `text`), `tree` (YAML: nested keys with lists of texts at the ends, columns
            `text` and `path`) or `whole` (one row, column `text`).
        delimiter: between the fields of a delimited file.
        quoted: whether fields may stand in quotation marks; else these are ordinary characters.
        header: whether the first line of a delimited file names the columns.
        header_with: columns that make the first line a header all the same, where a corpus is also
            published in a form with one; `HubSource.rename` then applies.
        columns: the columns in order; with a header, those that must be there.
        ragged: lines with another number of fields that the published file has; they are left out,
            and a file with more of them is refused.
        levels: columns that the keys of a tree fill, from the outermost.
        unescape: whether the two characters `\n` stand for a line break in the column `text`.
    """

    kind: Literal["delimited", "jsonl", "json", "lines", "tree", "whole"]
    delimiter: str = Field(",", min_length=1, max_length=1)
    quoted: bool = True
    header: bool = True
    header_with: list[str] = []
    columns: list[str] = []
    ragged: int = Field(0, ge=0)
    levels: list[str] = []
    unescape: bool = False


class HubSource(_Entry):
    """Where the Hugging Face Hub has the corpus.

    Attributes:
        id: of the data set.
        config: its configuration, where it has several.
        revision: the commit that was looked at, where known.
        splits: the Hub's split by ours, the default one first; empty for all splits at once, each
            of which then counts as a file of that name.
        rename: our column by the Hub's, where they differ.
    """

    id: str
    config: str | None = None
    revision: str | None = None
    splits: dict[str, str] = {}
    rename: dict[str, str] = {}


class Label(_Entry):
    """How a row says which class it is of.

    Attributes:
        column: the column with the label or labels.
        separator: between several labels of a row.
        names: names of labels that are stored as numbers, from 0.
        classes: labels by class. A row with labels of two classes is of neither.
    """

    column: str
    separator: str | None = None
    names: list[str] = []
    classes: dict[str, Names]


class TextColumn(_Entry):
    """A column with a text, and which class the text is of.

    Attributes:
        column: the column.
        is_class: the class of all its texts.
        score: column with the share, 0 to 1, of people (or the probability) that call the text
            toxic; the class is `toxic` from 0.5, else `other`. Without either, the row's label.
        optional: whether the text may be missing.
    """

    column: str
    is_class: str | None = None
    score: str | None = None
    optional: bool = False


class PromptColumns(_Entry):
    """Which columns make a prompt; the words are those of `Prompt`.

    Attributes:
        where: rows that are taken: accepted values by column.
        per_file: at most so many prompts of each file.
    """

    text: str
    category: str | None = None
    form: str | None = None
    group: str | None = None
    chat: bool = False
    toxicity: str | None = None
    continuation_toxicity: str | None = None
    where: dict[str, Names] = {}
    per_file: int | None = Field(None, ge=1)


class QuestionColumns(_Entry):
    """Which columns make a question with its answer.

    Attributes:
        question: the column with the question.
        answer: the column with the answer; None: it is a part of the question's column.
        pattern: of the answer's column, with a part named `answer` (and `question`, where one
            column holds both).
    """

    question: str
    answer: str | None = None
    pattern: re.Pattern[str]


class Corpus(_Entry):
    """A public data set: where it is, how it is stored, what its rows mean.

    Attributes:
        name: what we call it.
        title: one line on what it is.
        license: of the data, as published; empty where none is stated.
        home: where its authors published it.
        published: its published size.
        uses: what it is for.
        folders: other names that folders with a copy have.
        format: how its files hold rows.
        files: patterns of file names by split, the default split first; each must be there.
        file_name: parts of a file's name (without suffix) that become columns.
        id: columns that identify a row, where the published files have them.
        label: how a row says which class it is of.
        texts: the columns with texts.
        group: column by which texts belong together (a sentence and its rewrites).
        shows: classes that show the behavior (label 1).
        opposite: classes that show its opposite (label 0); other classes are left out.
        prompts: the columns of prompts.
        questions: the columns of questions with answers.
        passages: the column with running text.
        hub: where the Hub has it; None where it does not.
        packaged: whether its files ship with the package.
    """

    name: str
    title: str
    license: str
    home: str
    published: str
    uses: Annotated[list[Use], Field(min_length=1)]
    folders: list[str] = []
    format: FileFormat
    files: Annotated[dict[str, Names], Field(min_length=1)]
    file_name: re.Pattern[str] | None = None
    id: list[str] = []
    label: Label | None = None
    texts: list[TextColumn] = []
    group: str | None = None
    shows: list[str] = []
    opposite: list[str] = []
    prompts: PromptColumns | None = None
    questions: QuestionColumns | None = None
    passages: str | None = None
    hub: HubSource | None = None
    packaged: bool = False

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
