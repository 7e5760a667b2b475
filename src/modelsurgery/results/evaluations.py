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
    """What was measured."""

    name: str
    title: str  # one line on what it is about
    shows: str | None  # what a continuation does that shows it
    opposite: str | None  # what one does that shows its opposite


class EvaluatedModel(Part):
    """Which model."""

    name: str
    fingerprint: str  # hash of its content


class OtherJudge(Compared):
    """Rates as another judge sees them."""

    # With the first judge: `items`, `share`, `kappa`, `kappa_low`, `kappa_high`, `counts`.
    agreement: Plain


class PromptSetResults(Named):
    """What was measured on a set of prompts."""

    prompts: int
    decoding: list[Plain]  # how they were continued, a round each
    by: dict[str, dict[str, Compared]]  # rates of each group, by what they are grouped by
    other_judges: dict[str, OtherJudge]
    quality: Plain  # length, repetition and the like of the continuations
    published: list[Plain]  # what others measured on these prompts


class EvaluationDamage(Part):
    """What may have broken."""

    neutral_text: NeutralText | None  # None with a backend that only generates
    # None where the behavior does not depend on the request, or without an edit.
    own_answers: OwnAnswers | None = None
    # Exact match, base and edited (None without an edit); None where there are no facts.
    facts: tuple[Rate, Rate | None] | None
    tasks: dict[str, Plain]  # capability tasks, by name


class EvaluationResults(Part):
    """Results of an evaluation: no times and no paths, the same in every repetition."""

    format: Literal[3] = FORMAT
    kind: Literal["evaluation"] = "evaluation"
    model: EvaluatedModel
    edits: dict[str, str]  # content hash of each edit, by path as typed
    behavior: EvaluatedBehavior
    judges: list[JudgeNote]  # the first decides
    sets: list[PromptSetResults]
    uncalled_for: Named | None = None  # prompts that do not call for the behavior, if any
    damage: EvaluationDamage
    seed: int  # of sampling and of the choice of prompts
