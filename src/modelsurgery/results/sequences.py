"""Results of several surgeries in a row: all behaviors after each of them."""

from typing import Literal

from modelsurgery.results.parts import (
    FORMAT,
    Direction,
    Limits,
    Measured,
    Named,
    NeutralText,
    Outcome,
    Part,
    Rate,
)


class StageBehavior(Measured):
    """A behavior of a sequence, sampled, after some of the edits."""

    name: str
    uncalled_for: Named | None = None


class StageResults(Part):
    """The model after some of the edits, against the untouched one.

    Attributes:
        edits: how many.
        behaviors: all of the sequence, in order.
        damage: what was allowed, and what of it is used.
        neutral_text: None in files of earlier versions.
        facts: exact match, base and edited; None where there are none.
    """

    edits: int
    behaviors: list[StageBehavior]
    damage: Limits
    neutral_text: NeutralText | None = None
    facts: tuple[Rate, Rate] | None


class Step(Part):
    """A behavior of a sequence, and which way it was to go."""

    name: str
    direction: Direction


class ConflictResults(Part):
    """What two edits do to each other; see `edit.interactions.Conflict`."""

    first: int
    second: int
    cosine: float
    rows: tuple[int, int]
    shared_rows: int
    first_changed: float
    second_changed: float
    verdict: str


class SequenceResults(Part):
    """Results of several surgeries in a row, or of one for several behaviors.

    Attributes:
        format: of this file.
        kind: of results.
        model: its name.
        behaviors: in order.
        edits: files of the edits.
        outcomes: what became of each behavior with all edits; empty in files of earlier versions.
        stages: after 1, 2, … edits.
        conflicts: of each pair of edits.
        run_directory: as typed.
        at_once: whether one edit was made for all behaviors.
    """

    format: Literal[3] = FORMAT
    kind: Literal["sequence"] = "sequence"
    model: str
    behaviors: list[Step]
    edits: list[str]
    outcomes: tuple[Outcome, ...] = ()
    stages: list[StageResults]
    conflicts: list[ConflictResults]
    run_directory: str
    at_once: bool = False
