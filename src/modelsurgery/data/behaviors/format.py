"""What a behavior's YAML file may say, and the files that ship with the package."""

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, model_validator

from modelsurgery.data.text_files import is_on_hub
from modelsurgery.edit.choices import Direction as Direction
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
    """Openings of an assistant's answer. Each text is given one of either kind.

    Attributes:
        shows: answers that show the behavior.
        opposite: answers that show its opposite.
    """

    shows: Phrases
    opposite: Phrases


class CorpusTexts(_Entry):
    """Labeled texts of a public data set (`modelsurgery.data.corpora`).

    Attributes:
        corpus: its name.
        split: `train`, `test`, …; None takes the first that is there.
        shows: classes with label 1; None takes the usual ones.
        opposite: classes with label 0; None takes the usual ones.
        per_class: at most so many texts of each label.
        replies: the texts are users' turns; each is taken twice, answered in either way, and the
            answer decides the label. So a probe can't tell them apart by what was asked.
        called_for: whether the behavior depends on the turn: the classes under `shows` call for it,
            those under `opposite` don't. Needs `replies`.
    """

    corpus: str
    split: PartName | None = None
    shows: list[str] | None = None
    opposite: list[str] | None = None
    per_class: int | None = Field(None, ge=10)
    replies: Replies | None = None
    called_for: bool = False

    @model_validator(mode="after")
    def _has_replies(self) -> "CorpusTexts":
        if self.called_for and self.replies is None:
            raise ValueError("called_for without replies; expected texts with replies")
        return self


class TextFiles(_Entry):
    """Two files of plain text, one text a line.

    Attributes:
        shows: texts that show the behavior.
        opposite: texts that show its opposite.
    """

    shows: Path
    opposite: Path


class PublishedRate(_Entry):
    """A published measurement on the same prompts, to compare with.

    Attributes:
        model: of which model.
        base: rate before, per cent.
        edited: rate after, per cent.
        direction: of the edit.
        note: what was measured, and how it differs from what is measured here.
    """

    model: str
    base: float
    edited: float
    direction: Direction = "away"
    note: str = ""


class CorpusPrompts(_Entry):
    r"""Prompts of a public data set, how they are continued, and how the result is told.

    Attributes:
        corpus: its name.
        name: of this set of prompts; None takes the corpus's.
        title: one line on what it is.
        split: `train`, `test`, …; None takes the first that is there.
        where: accepted values by column; None takes the usual ones.
        per_file: at most so many of each file.
        max_new_tokens: length of a continuation.
        stop: text at which a continuation ends; `\n` in double quotes is a line break.
        by: what the result is also reported by.
        published: measurements of others on the same prompts.
    """

    corpus: str
    name: str | None = None
    title: str = ""
    split: PartName | None = None
    where: dict[str, list[str]] | None = None
    per_file: int | None = Field(None, ge=1)
    max_new_tokens: Annotated[int, Field(ge=1)] = 32
    stop: str | None = None
    by: list[Category] = []
    published: list[PublishedRate] = []

    @property
    def called(self) -> str:
        """Its name."""
        return self.name or self.corpus


class Uncalled(_Entry):
    """Prompts that do not call for a behavior, so that showing it there is a fault.

    Attributes:
        name: what the fault is called, in tables.
        verdict: the judge's verdict that is the fault.
        prompts: held-out prompts, pooled; the demo data has its own.
        validation: prompts that choices are made on.
    """

    name: str = "uncalled-for"
    verdict: Literal["behavior", "opposite"] = "behavior"
    prompts: list[CorpusPrompts] = []
    validation: Annotated[
        CorpusPrompts | None, Field(validation_alias=AliasChoices("validation", "tuning"))
    ] = None

    @model_validator(mode="after")
    def _has_both(self) -> "Uncalled":
        if bool(self.prompts) != (self.validation is not None):
            raise ValueError("uncalled_for: expected both prompts and validation, or neither")
        return self


class Packaged(_Entry):
    """Small public data sets that ship with the package, taken where no other data are given.

    Attributes:
        texts: in place of the behavior's texts.
        prompts: in place of its prompts.
        validation_prompts: prompts that choices are made on.
        neutral: data set with running text, in parts `test` and `validation`.
    """

    texts: Annotated[list[CorpusTexts], Field(min_length=1)]
    prompts: Annotated[list[CorpusPrompts], Field(min_length=1)]
    validation_prompts: Annotated[
        CorpusPrompts, Field(validation_alias=AliasChoices("validation_prompts", "tuning_prompts"))
    ]
    neutral: str


class BehaviorFile(_Entry):
    """The content of a behavior's YAML file.

    Attributes:
        name: what it is called.
        title: one line on what it is about.
        shows: what label 1 means, in words that a judge can be asked with.
        opposite: what label 0 means, the same.
        direction: which way a surgery goes unless it is told otherwise.
        demo: whether the demo data has it under this name; there, texts, prompts and
            neutral text that are no files come from there, and so does the judge.
        texts: one file of labeled texts, two files of plain texts, or public data sets.
        prompts: a file with held-out prompts, or public data sets; else cut from held-out texts.
        neutral: a file with neutral text; else held-out texts with label 0.
        text_column: name of the column with the text.
        label_column: name of the column with the label.
        judge: the judge unless another is asked for, as `--judge` spells it.
        max_new_tokens: length of a continuation of prompts that come from a file or from texts.
        packaged: data sets that ship with the package, for where no local copies are given.
        uncalled_for: prompts on which the behavior is not wanted whichever way the edit goes.
    """

    name: str
    title: str = ""
    shows: str = "the behavior"
    opposite: str = "its opposite"
    direction: Direction = "away"
    demo: Annotated[bool, Field(validation_alias=AliasChoices("demo", "lab"))] = False
    texts: Path | TextFiles | list[CorpusTexts] | None = None
    prompts: Path | list[CorpusPrompts] | None = None
    neutral: Path | None = None
    text_column: str = "text"
    label_column: str = "label"
    judge: str | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] = 24
    packaged: Packaged | None = None
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
