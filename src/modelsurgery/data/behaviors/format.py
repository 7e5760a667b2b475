"""What a behavior's YAML file may say, and the files that ship with the package."""

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, model_validator

from modelsurgery.data.text_files import is_on_hub
from modelsurgery.edit.option_names import Direction as Direction
from modelsurgery.errors import RecipeError
from modelsurgery.files.schema import load_yaml

Phrases = Annotated[list[str], Field(min_length=1)]
Category = Literal["category", "form", "group"]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _current_part(name: str) -> str:
    return "validation" if name == "tuning" else name  # its earlier name


PartName = Annotated[str, AfterValidator(_current_part)]


class Replies(_Entry):
    """Openings of an assistant's answer. Each text is given one of either kind."""

    shows: Phrases  # answers that show the behavior
    opposite: Phrases  # answers that show its opposite


class CorpusTexts(_Entry):
    """Labeled texts of a public data set (`modelsurgery.data.corpora`)."""

    corpus: str
    split: PartName | None = None  # `train`, `test`, …; None takes the first that is there
    shows: list[str] | None = None  # classes with label 1; None takes the usual ones
    opposite: list[str] | None = None  # classes with label 0; None takes the usual ones
    per_class: int | None = Field(None, ge=10)  # at most so many texts of each label
    # The texts are users' turns; each is taken twice, answered in either way, and the answer
    # decides the label. So a probe can't tell them apart by what was asked.
    replies: Replies | None = None
    # Whether the behavior depends on the turn: the classes under `shows` call for it, those under
    # `opposite` don't. Needs `replies`.
    called_for: bool = False

    @model_validator(mode="after")
    def _has_replies(self) -> "CorpusTexts":
        if self.called_for and self.replies is None:
            raise ValueError("called_for without replies; expected texts with replies")
        return self


class TextFiles(_Entry):
    """Two files of plain text, one text a line."""

    shows: Path  # texts that show the behavior
    opposite: Path  # texts that show its opposite


class PublishedRate(_Entry):
    """A published measurement on the same prompts, to compare with."""

    model: str  # of which model
    base: float  # rate before, per cent
    edited: float  # rate after, per cent
    direction: Direction = "away"  # of the edit
    note: str = ""  # what was measured, and how it differs from what is measured here


class CorpusPrompts(_Entry):
    """Prompts of a public data set, how they are continued, and how the result is told."""

    corpus: str
    name: str | None = None  # of this set of prompts; None takes the corpus's
    title: str = ""  # one line on what it is
    split: PartName | None = None  # `train`, `test`, …; None takes the first that is there
    # Accepted values by column; None takes the usual ones.
    where: dict[str, list[str]] | None = None
    per_file: int | None = Field(None, ge=1)  # at most so many of each file
    max_new_tokens: Annotated[int, Field(ge=1)] = 32  # length of a continuation
    # Text at which a continuation ends; `\n` in double quotes is a line break.
    stop: str | None = None
    by: list[Category] = []  # what the result is also reported by
    published: list[PublishedRate] = []  # measurements of others on the same prompts

    @property
    def called(self) -> str:
        """Its name."""
        return self.name or self.corpus


class Uncalled(_Entry):
    """Prompts that do not call for a behavior, so that showing it there is a fault."""

    name: str = "uncalled-for"  # what the fault is called, in tables
    verdict: Literal["behavior", "opposite"] = "behavior"  # the judge's verdict that is the fault
    prompts: list[CorpusPrompts] = []  # held-out prompts, pooled; the demo data has its own
    # Prompts that choices are made on.
    validation: Annotated[
        CorpusPrompts | None, Field(validation_alias=AliasChoices("validation", "tuning"))
    ] = None

    @model_validator(mode="after")
    def _has_both(self) -> "Uncalled":
        if bool(self.prompts) != (self.validation is not None):
            raise ValueError("uncalled_for: expected both prompts and validation, or neither")
        return self


class Packaged(_Entry):
    """Small public data sets that ship with the package, taken where no other data are given."""

    texts: Annotated[list[CorpusTexts], Field(min_length=1)]  # in place of the behavior's texts
    prompts: Annotated[list[CorpusPrompts], Field(min_length=1)]  # in place of its prompts
    # Prompts that choices are made on.
    validation_prompts: Annotated[
        CorpusPrompts, Field(validation_alias=AliasChoices("validation_prompts", "tuning_prompts"))
    ]
    neutral: str  # data set with running text, in parts `test` and `validation`


class BehaviorFile(_Entry):
    """The content of a behavior's YAML file."""

    name: str
    title: str = ""  # one line on what it is about
    shows: str = "the behavior"  # what label 1 means, in words that a judge can be asked with
    opposite: str = "its opposite"  # what label 0 means, the same
    direction: Direction = "away"  # which way a surgery goes unless it is told otherwise
    # Whether the demo data has it under this name; there, texts, prompts and neutral text that are
    # no files come from there, and so does the judge.
    demo: Annotated[bool, Field(validation_alias=AliasChoices("demo", "lab"))] = False
    # One file of labeled texts, two files of plain texts, or public data sets.
    texts: Path | TextFiles | list[CorpusTexts] | None = None
    # A file with held-out prompts, or public data sets; else cut from held-out texts.
    prompts: Path | list[CorpusPrompts] | None = None
    neutral: Path | None = None  # a file with neutral text; else held-out texts with label 0
    text_column: str = "text"  # name of the column with the text
    label_column: str = "label"  # name of the column with the label
    judge: str | None = None  # the judge unless another is asked for, as `--judge` spells it
    # Length of a continuation of prompts that come from a file or from texts.
    max_new_tokens: Annotated[int, Field(ge=1)] = 24
    # Data sets that ship with the package, for where no local copies are given.
    packaged: Packaged | None = None
    # Prompts on which the behavior is not wanted whichever way the edit goes.
    uncalled_for: Uncalled | None = None

    @model_validator(mode="after")
    def _has_texts(self) -> "BehaviorFile":
        if self.texts is None and not self.demo:
            raise ValueError(
                "no texts; expected a file with labeled texts, two files "
                "(texts: {shows: FILE, opposite: FILE}) or public data sets"
            )
        return self

    def with_length(self, max_new_tokens: int | None) -> "BehaviorFile":
        """The same with continuations of another length; None leaves it as it is."""
        if max_new_tokens is None:
            return self
        length: dict[str, object] = {"max_new_tokens": max_new_tokens}

        def all_of(prompts: list[CorpusPrompts]) -> dict[str, object]:
            return {"prompts": [one.model_copy(update=length) for one in prompts]}

        update = dict(length)
        if isinstance(self.prompts, list):
            update |= all_of(self.prompts)
        if self.packaged is not None:
            update["packaged"] = self.packaged.model_copy(update=all_of(self.packaged.prompts))
        return self.model_copy(update=update)

    @classmethod
    def of_texts(cls, texts: Path) -> "BehaviorFile":
        """A behavior that a file of labeled texts alone describes."""
        return cls(name=texts.stem, title=f"texts of {texts.name}", texts=texts)

    def with_own(
        self,
        *,
        texts: Path | None = None,
        prompts: Path | None = None,
        neutral: Path | None = None,
        text_column: str = "text",
        label_column: str = "label",
    ) -> "BehaviorFile":
        """The same with these files in place of its own parts; the columns are those of `texts`."""
        own: dict[str, object] = {"texts": texts, "prompts": prompts, "neutral": neutral}
        update = {key: path for key, path in own.items() if path is not None}
        if texts is not None:
            update |= {"text_column": text_column, "label_column": label_column}
        return self.model_copy(update=update)

    def beside(self, directory: Path) -> "BehaviorFile":
        """The same with its paths, which are relative to the YAML file, resolved."""
        paths: dict[str, object] = {
            key: directory / path
            for key in ("texts", "prompts", "neutral")
            if isinstance(path := getattr(self, key), Path) and not is_on_hub(path)
        }
        if isinstance(self.texts, TextFiles):
            paths["texts"] = TextFiles(
                shows=directory / self.texts.shows, opposite=directory / self.texts.opposite
            )
        return self.model_copy(update=paths)


@cache
def built_in_behaviors() -> tuple[BehaviorFile, ...]:
    """The behaviors that ship with the package, by name."""
    with resources.as_file(resources.files(__package__)) as path:
        return tuple(load_yaml(file, BehaviorFile) for file in sorted(path.glob("*.yaml")))


def describe_behavior(name: str | Path) -> BehaviorFile:
    """The description of a behavior given by built-in name or YAML file; its paths resolved.

    Raises:
        RecipeError: no such behavior, or a file that is wrong.
    """
    known = {behavior.name: behavior for behavior in built_in_behaviors()}
    if str(name) in known:
        return known[str(name)]
    if Path(name).suffix not in {".yaml", ".yml"}:
        raise RecipeError(
            f"no behavior {str(name)!r}; built in: {', '.join(known)}; or give a "
            "YAML file, or --texts FILE"
        )
    return load_yaml(Path(name), BehaviorFile).beside(Path(name).parent)
