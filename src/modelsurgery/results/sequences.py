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
    """The model after some of the edits, against the untouched one."""

    edits: int  # how many
    behaviors: list[StageBehavior]  # all of the sequence, in order
    damage: Limits  # what was allowed, and what of it is used
    neutral_text: NeutralText | None = None  # None in files of earlier versions
    facts: tuple[Rate, Rate] | None  # exact match, base and edited; None where there are none


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
    """Results of several surgeries in a row, or of one for several behaviors."""

    format: Literal[3] = FORMAT
    kind: Literal["sequence"] = "sequence"
    model: str
    behaviors: list[Step]
    edits: list[str]
    outcomes: tuple[Outcome, ...] = ()  # with all edits; empty in files of earlier versions
    stages: list[StageResults]  # after 1, 2, … edits
    conflicts: list[ConflictResults]
    run_directory: str
    at_once: bool = False  # whether one edit was made for all behaviors
