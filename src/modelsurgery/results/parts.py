"""Values that come back in all results: rates, changes, measured behaviors, damage."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

FORMAT: Literal[3] = 3  # of results.json
ChangeVerdict = Literal["less", "more", "no detectable change"]
Direction = Literal["away", "toward"]
Verdicts = dict[Literal["behavior", "opposite", "neither", "failed", "unjudged"], int]


class Part(BaseModel):
    """A part of results: read-only, and without keys that nobody knows."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Rate(Part):
    """A share of prompts (or facts, or items) with its 95 % interval, Wilson's.

    Attributes:
        rate: mean over prompts, 0..1.
        low: lower end of the interval.
        high: upper end.
        prompts: how many.
    """

    rate: float
    low: float
    high: float
    prompts: int


class Change(Part):
    """How a rate changed from base to edited on the same prompts.

    Attributes:
        difference: edited minus base.
        low: lower end of its 95 % interval, a bootstrap over prompts.
        high: upper end.
        p_value: of a sign test over the prompts that changed.
        adjusted_p_value: corrected (Holm) for all that was compared together.
        effect_size: Cohen's h.
        decreased: prompts whose rate fell.
        increased: prompts whose rate rose.
        verdict: what may be said.
    """

    difference: float
    low: float
    high: float
    p_value: float
    adjusted_p_value: float
    effect_size: float
    decreased: int
    increased: int
    verdict: ChangeVerdict


class Compared(Part):
    """Rates of base and edited model on the same prompts.

    Attributes:
        base: of the base model.
        edited: of the edited model; None without an edit, like the next two.
        change: between them.
        reduction: share of the behavior that is gone, 1 - edited / base; None where base is 0.
    """

    base: Rate
    edited: Rate | None
    change: Change | None
    reduction: float | None


class BothVerdicts(Part):
    """How many continuations got each verdict; failed and unjudged ones are in no rate.

    Attributes:
        base: of the base model.
        edited: of the edited model; None without an edit.
    """

    base: Verdicts
    edited: Verdicts | None


class Measured(Compared):
    """How often a behavior shows.

    Attributes:
        verdicts: what rates were made of.
    """

    verdicts: BothVerdicts


class Named(Measured):
    """The same with a name.

    Attributes:
        name: of the behavior or the prompts.
        title: one line on what it is.
    """

    name: str
    title: str


class Outcome(Part):
    """What became of a behavior.

    Attributes:
        kind: `changed` as it was asked to; anything else says that the edit does not work.
        sentence: the same in words, with the rates.
    """

    kind: Literal["changed", "wrong way", "no change", "nothing to change"]
    sentence: str


class JudgeNote(Part):
    """Who judged.

    Attributes:
        name: as `--judge` spells it.
        note: what its word is worth.
        version: of what it judges by; None in runs.
    """

    name: str
    note: str
    version: str | None = None


class NeutralText(Part):
    """What neutral text tells: perplexity, and how far the edited model's predictions are.

    Attributes:
        text: what the text is.
        tokens: predicted tokens.
        base_perplexity: of the base model.
        edited_perplexity: of the edited model; None without an edit, like the next two.
        rise: relative, 0.05 is +5 %.
        divergence: mean KL(base ‖ edited) over all positions, nats.
    """

    text: str
    tokens: int
    base_perplexity: float
    edited_perplexity: float | None
    rise: float | None
    divergence: float | None


class OwnAnswers(Part):
    """What an edit does to the model's own answers to harmless requests.

    Attributes:
        divergence: mean KL(base ‖ edited) over their positions, nats.
        answers: how many.
        counts: whether it is the divergence that a budget counts, being the larger one.
    """

    divergence: float
    answers: int
    counts: bool


class Limit(Part):
    """Damage of one kind, and what was allowed.

    Attributes:
        measured: on held-out data.
        limit: None does not limit.
        is_inside: None without a limit.
    """

    measured: float
    limit: float | None
    is_inside: bool | None


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
