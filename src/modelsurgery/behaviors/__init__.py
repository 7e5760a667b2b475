"""Behaviors: the texts that show one, the prompts that may draw it out, the yardsticks.

A behavior is data. The built-in ones are YAML files in this directory; a user's own is a YAML
file of the same form with paths in it, or just a file of labelled texts.
"""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from modelsurgery import lab
from modelsurgery.errors import RecipeError, TextsError
from modelsurgery.schema import load_yaml
from modelsurgery.texts import LabelledText, Split, load_lines, load_texts, split_texts

LAB_TEXTS = 2400
LAB_NEUTRAL = 400
LAB_FACTS = 200
LAB_TUNING_FACTS = 200
HELD_OUT_SHARE = 0.2
TUNING_SHARE = 0.25
MIN_PROMPT_WORDS = 2


class BehaviorFile(BaseModel):
    """The content of a behavior's YAML file.

    Attributes:
        name: what it is called.
        title: one line on what it is about.
        shows: what label 1 means.
        opposite: what label 0 means.
        source: `lab` for the embedded model's world, `files` for the paths below.
        texts: labelled texts, relative to the YAML file.
        prompts: held-out prompts, relative to the YAML file; else made from held-out texts.
        neutral: neutral text, relative to the YAML file; else held-out texts with label 0.
        text_column: name of the column with the text.
        label_column: name of the column with the label.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str = ""
    shows: str = "the behavior"
    opposite: str = "its opposite"
    source: Literal["lab", "files"] = "files"
    texts: Path | None = None
    prompts: Path | None = None
    neutral: Path | None = None
    text_column: str = "text"
    label_column: str = "label"


@dataclass(frozen=True)
class Behavior:
    """A behavior with all its texts, ready to use. Nothing held out is used for any choice.

    Attributes:
        name: what it is called.
        title: one line on what it is about.
        source: `lab` or `files`.
        fit: texts that the probe is fitted on.
        tuning: texts that choices are made on; not in `fit`.
        held_out: texts that the probe is measured on.
        tuning_prompts: prompts that choices are made on.
        prompts: held-out prompts.
        tuning_neutral: neutral texts that the damage budget is kept on.
        neutral: held-out neutral texts.
        neutral_note: what the neutral texts are.
        tuning_facts: questions with their answers that the damage budget is kept on.
        facts: held-out questions with their exact answers; empty where there are none.
    """

    name: str
    title: str
    source: Literal["lab", "files"]
    fit: tuple[LabelledText, ...]
    tuning: tuple[LabelledText, ...]
    held_out: tuple[LabelledText, ...]
    tuning_prompts: tuple[str, ...]
    prompts: tuple[str, ...]
    tuning_neutral: tuple[str, ...]
    neutral: tuple[str, ...]
    neutral_note: str
    tuning_facts: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()


def built_in_behaviors() -> tuple[BehaviorFile, ...]:
    """The behaviors that ship with the package, by name."""
    directory = resources.files(__name__)
    with resources.as_file(directory) as path:
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
    described = load_yaml(Path(name), BehaviorFile)
    if described.source == "files" and described.texts is None:
        raise RecipeError(f"{name}: no texts; expected the path of a file with labelled texts")
    base = Path(name).parent
    paths = {
        key: base / path
        for key in ("texts", "prompts", "neutral")
        if (path := getattr(described, key)) is not None
    }
    return described.model_copy(update=paths)


def load_behavior(described: BehaviorFile, *, seed: int = 0, prompt_count: int = 300) -> Behavior:
    """Gather a behavior's texts and split them.

    Args:
        described: from `describe_behavior`, or made by hand.
        seed: of the split, and of the embedded model's generated texts.
        prompt_count: held-out prompts, at most.

    Raises:
        TextsError: a file that cannot be used, or too little left for a part.
    """
    if described.source == "lab":
        return _lab_behavior(described, seed, prompt_count)
    assert described.texts is not None
    texts = load_texts(
        described.texts, text_column=described.text_column, label_column=described.label_column
    )
    parts = _three_parts(texts, seed)
    tuning_prompts = _half_texts(parts[1].held_out)
    if described.prompts is not None:
        prompts = load_lines(described.prompts)
    else:
        prompts = _half_texts(parts[0].held_out)
    if not prompts or not tuning_prompts:
        raise TextsError(
            f"{described.texts}: the texts are too short to cut prompts from; expected"
            " sentences of four words or more, or --prompts FILE"
        )
    note = "held-out texts with label 0; give --neutral FILE for text of your own"
    tuning_neutral, neutral = (
        tuple(text.text for text in part if text.label == 0)
        for part in (parts[1].held_out, parts[0].held_out)
    )
    if described.neutral is not None:
        lines = load_lines(described.neutral)
        tuning_neutral, neutral = lines[::2], lines[1::2] or lines
        note = described.neutral.name
    return Behavior(
        described.name,
        described.title,
        "files",
        parts[1].train,
        parts[1].held_out,
        parts[0].held_out,
        tuning_prompts[:prompt_count],
        prompts[:prompt_count],
        tuning_neutral,
        neutral,
        note,
    )


def _lab_behavior(described: BehaviorFile, seed: int, prompt_count: int) -> Behavior:
    name = described.name
    texts = [
        LabelledText(text, label, group=str(number // 2))
        for number, (text, label) in enumerate(lab.labelled_texts(name, LAB_TEXTS, seed))
    ]
    parts = _three_parts(texts, seed)
    return Behavior(
        name,
        described.title,
        "lab",
        parts[1].train,
        parts[1].held_out,
        parts[0].held_out,
        tuning_prompts=tuple(lab.prompts(name, "train", prompt_count, seed)),
        prompts=tuple(lab.prompts(name, "held_out", prompt_count, seed)),
        tuning_neutral=tuple(lab.neutral_texts("train", LAB_NEUTRAL, seed)),
        neutral=tuple(lab.neutral_texts("held_out", LAB_NEUTRAL, seed)),
        neutral_note="held-out plain talk, harmless requests, facts and narration",
        tuning_facts=tuple(lab.facts("train", LAB_TUNING_FACTS, seed)),
        facts=tuple(lab.facts("held_out", LAB_FACTS, seed)),
    )


def _three_parts(
    texts: list[LabelledText] | tuple[LabelledText, ...], seed: int
) -> tuple[Split, Split]:
    outer = split_texts(texts, held_out=HELD_OUT_SHARE, seed=seed)
    return outer, split_texts(outer.train, held_out=TUNING_SHARE, seed=seed)


def _half_texts(texts: tuple[LabelledText, ...]) -> tuple[str, ...]:
    """First halves, in words, of the texts that show the behavior."""
    words = [text.text.split() for text in texts if text.label == 1]
    halves = [
        " ".join(word[: len(word) // 2]) for word in words if len(word) // 2 >= MIN_PROMPT_WORDS
    ]
    return tuple(dict.fromkeys(halves))
