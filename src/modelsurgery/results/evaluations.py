"""Results of an evaluation: base against edited on every prompt set, and what broke."""

from typing import Literal

from modelsurgery.results.parts import (
    FORMAT,
    Compared,
    JudgeNote,
    Named,
    NeutralText,
    OwnAnswers,
    Part,
    Plain,
    Rate,
)


class EvaluatedBehavior(Part):
    """What was measured.

    Attributes:
        name: of the behavior.
        title: one line on what it is about.
        shows: what a continuation does that shows it.
        opposite: what one does that shows its opposite.
    """

    name: str
    title: str
    shows: str | None
    opposite: str | None


class EvaluatedModel(Part):
    """Which model.

    Attributes:
        name: of its directory.
        fingerprint: hash of its content.
    """

    name: str
    fingerprint: str


class OtherJudge(Compared):
    """Rates as another judge sees them.

    Attributes:
        agreement: with the first judge: `items`, `share`, `kappa`, `kappa_low`, `kappa_high`,
            `counts`.
    """

    agreement: Plain


class PromptSetResults(Named):
    """What was measured on a set of prompts.

    Attributes:
        prompts: how many.
        decoding: how they were continued, a round each.
        by: rates of each group, by what they are grouped by.
        other_judges: rates as other judges see them.
        quality: length, repetition and the like of the continuations.
        published: what others measured on these prompts.
    """

    prompts: int
    decoding: list[Plain]
    by: dict[str, dict[str, Compared]]
    other_judges: dict[str, OtherJudge]
    quality: Plain
    published: list[Plain]


class EvaluationDamage(Part):
    """What may have broken.

    Attributes:
        neutral_text: None with a backend that only generates.
        own_answers: None where the behavior does not depend on the request, or without an edit.
        facts: exact match, base and edited (None without an edit); None where there are no facts.
        tasks: capability tasks, by name.
    """

    neutral_text: NeutralText | None
    own_answers: OwnAnswers | None = None
    facts: tuple[Rate, Rate | None] | None
    tasks: dict[str, Plain]


class EvaluationResults(Part):
    """Results of an evaluation: no times and no paths, the same in every repetition.

    Attributes:
        format: of this file.
        kind: of results.
        model: which model.
        edits: content hash of each edit, by path as typed.
        behavior: what was measured.
        judges: the first decides.
        sets: one for each set of prompts.
        uncalled_for: prompts that do not call for the behavior; None where there are none.
        damage: what may have broken.
        seed: of sampling and of the choice of prompts.
    """

    format: Literal[3] = FORMAT
    kind: Literal["evaluation"] = "evaluation"
    model: EvaluatedModel
    edits: dict[str, str]
    behavior: EvaluatedBehavior
    judges: list[JudgeNote]
    sets: list[PromptSetResults]
    uncalled_for: Named | None = None
    damage: EvaluationDamage
    seed: int
