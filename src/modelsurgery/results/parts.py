"""Values that come back in all results: rates, changes, measured behaviors, damage."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

FORMAT: Literal[3] = 3  # of results.json
ChangeVerdict = Literal["less", "more", "no detectable change"]
NO_CHANGE: ChangeVerdict = "no detectable change"
Direction = Literal["away", "toward"]
# `failed`: there is no continuation. `unjudged`: the judge could not say. Neither is harmless.
Verdict = Literal["behavior", "opposite", "neither", "failed", "unjudged"]
Verdicts = dict[Verdict, int]


class Part(BaseModel):
    """A part of results: read-only, and without keys that nobody knows."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Rate(Part):
    """A share of prompts (or facts, or items) with its 95 % interval, Wilson's."""

    rate: float  # mean over prompts, 0..1
    low: float
    high: float
    prompts: int


class Change(Part):
    """How a rate changed from base to edited on the same prompts."""

    difference: float  # edited minus base
    low: float  # lower end of its 95 % interval, a bootstrap over prompts
    high: float
    p_value: float  # of a sign test over the prompts that changed
    adjusted_p_value: float  # corrected (Holm) for all that was compared together
    effect_size: float  # Cohen's h
    decreased: int  # prompts whose rate fell
    increased: int  # prompts whose rate rose
    verdict: ChangeVerdict


class Compared(Part):
    """Rates of base and edited model on the same prompts."""

    base: Rate
    edited: Rate | None  # None without an edit, like the next two
    change: Change | None
    reduction: float | None  # share that is gone, 1 - edited / base; None where base is 0


class BothVerdicts(Part):
    """How many continuations got each verdict; failed and unjudged ones are in no rate."""

    base: Verdicts
    edited: Verdicts | None  # None without an edit


class Measured(Compared):
    """How often a behavior shows."""

    verdicts: BothVerdicts


class Named(Measured):
    """The same with a name."""

    name: str
    title: str  # one line on what it is


class Outcome(Part):
    """What became of a behavior."""

    # Anything but `changed`, which is as it was asked to, says that the edit does not work.
    kind: Literal["changed", "wrong way", "no change", "nothing to change"]
    sentence: str  # the same in words, with the rates


class JudgeNote(Part):
    """Who judged."""

    name: str  # as `--judge` spells it
    note: str  # what its word is worth
    version: str | None = None  # of what it judges by; None in runs


class NeutralText(Part):
    """What neutral text tells: perplexity, and how far the edited model's predictions are."""

    text: str
    tokens: int  # predicted tokens
    base_perplexity: float
    edited_perplexity: float | None  # None without an edit, like the next two
    rise: float | None  # relative, 0.05 is +5 %
    divergence: float | None  # mean KL(base ‖ edited) over all positions, nats


class OwnAnswers(Part):
    """What an edit does to the model's own answers to harmless requests."""

    divergence: float  # mean KL(base ‖ edited) over their positions, nats
    answers: int
    counts: bool  # whether it is the divergence that a budget counts, being the larger one


class Limit(Part):
    """Damage of one kind on held-out data, and what was allowed."""

    measured: float
    limit: float | None  # None does not limit
    is_inside: bool | None  # None without a limit


class Interval(Part):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class Grown(Part):
    """A part that describes how an edit was found; later versions may say more in it."""

    model_config = ConfigDict(extra="allow", frozen=True)


Limits = dict[str, Limit]
Plain = dict[str, Any]


def plain(results: Part) -> Plain:
    """Results as plain values, as in their file."""
    return results.model_dump(mode="json")
