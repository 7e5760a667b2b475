"""Results of a run: the behavior before and after, the damage, the edit and how it was found."""

from typing import Literal

from modelsurgery.results.parts import (
    FORMAT,
    Direction,
    Grown,
    Interval,
    JudgeNote,
    Limits,
    Measured,
    Named,
    NeutralText,
    Outcome,
    OwnAnswers,
    Part,
    Plain,
    Rate,
)


class RunBehavior(Named):
    """The behavior of a run on held-out prompts; rates are those of sampled continuations."""

    direction: Direction  # that the surgery was meant to go
    samples_per_prompt: int
    greedy: Measured  # the same prompts
    outcome: Outcome | None = None  # None in files of earlier versions


class Perplexity(Part):
    """Perplexity of held-out neutral text."""

    base: float
    edited: float
    rise: float  # relative, 0.05 is +5 %
    tokens: int  # predicted tokens
    text: str


class BudgetUse(Part):
    """What was allowed, and what of it was used on held-out data."""

    is_met: bool
    limits: Limits
    given_up: Limits | None  # of a stronger edit that was over the budget


class Facts(Part):
    """Exact match of greedy answers to facts; all None where there are none."""

    base: float | None
    edited: float | None
    intervals: tuple[Rate, Rate] | None


class ProbeResults(Part):
    """How well the probe tells labels apart on held-out texts."""

    layer: int | None  # that it reads, 1..L; None where that is not known
    fit: str | None
    accuracy: float
    auroc: float
    control_accuracy: float  # after fitting on shuffled labels, like the next
    control_auroc: float
    train_texts: int
    test_texts: int


class EditResults(Part):
    """What was edited."""

    rows: int  # edited gate rows
    rows_found: int  # of all
    tensors: int  # gate tensors with edited rows
    tensors_found: int  # of all
    bytes_changed: int  # of the weights
    bytes_total: int  # of all weights
    alpha: float  # strength, as the paper counts
    strength: float  # in portable units
    rule: str = "paper"  # that the edit comes from; files of earlier versions are the paper's
    steps: int | None = None  # of the rule; None in files of earlier versions, which took one
    direction_source: str | None = None  # of the paper's rule, from the probe
    probe_layer: int | None = None  # layer of that probe
    layers: tuple[int, int] | None  # first and last; None for all
    per_layer: bool  # whether each layer gives its share


class FitResults(Grown):
    """What a rule predicted, and what was measured on validation texts."""

    damping: float | None = None  # of rows; None is the rule's own
    # Whether the texts agree: `gain`, `error`, `folds`; None for rules that can't tell.
    evidence: dict[str, float] | None = None
    # `gain` and `divergence`, nats per token; None where a rule predicts nothing.
    predicted: dict[str, float] | None
    by_layer: list[Plain] | None = None  # the same of the rows of each layer
    rows: list[Plain] | None = None  # with the highest gain; None in files of earlier versions
    # `gain`, `divergence`, `behavior` and `opposite`; None where nobody measured them.
    measured: dict[str, float] | None


class TrialResults(Grown):
    """An edit that a search tried; its rule, window and the rest as `Setting` spells them."""

    number: int
    rule: str
    rows: float | int
    window: tuple[int, int] | None
    per_layer: bool
    probe_layer: int | None
    damping: float | None = None
    strength: float
    selectivity: float
    effect: dict[str, float]


class SurvivorResults(Part):
    """A trial that was continued with, and its rate on validation prompts."""

    trial: int
    rate: float | None


class SearchResults(Grown):
    """What a search tried."""

    base_rate: float | None  # of the base model on validation prompts
    chosen: int  # number of the chosen trial
    survivors: list[SurvivorResults]  # trials that continued prompts, best first
    rank_correlation: float | None  # Spearman's, of the cheap measure with the judge
    front: list[int]  # trials that no other beats in both effect and damage
    trials: list[TrialResults]
    broken: int  # trials that broke the model


class Point(Part):
    """The chosen rows at another strength, on validation data."""

    strength: float  # in portable units
    is_chosen: bool
    rate: Rate | None  # of prompts that show the behavior; None if nothing could be judged
    selectivity: float  # nats per token
    perplexity_rise: Interval  # relative
    divergence: Interval  # on neutral text, nats
    capability_drop: Interval  # points
    own_divergence: Interval | None = None  # on own answers; not in files of earlier versions
    uncalled_for: Interval | None = None  # points; not in files of earlier versions
    used: dict[str, float]  # share of each limit
    is_inside: bool  # whether it is over none


class Example(Part):
    """A held-out prompt with the continuations and verdicts of both models."""

    prompt: str
    seed: int | None = None
    base: str
    edited: str
    base_verdict: str
    edited_verdict: str


class RunResults(Part):
    """Results of `surgery run` and `tune`."""

    format: Literal[3] = FORMAT
    kind: Literal["run"] = "run"
    model: str
    behavior: RunBehavior  # before and after, on held-out prompts
    origin: Plain | None = None  # where a fetched model came from; None for any other
    judge: JudgeNote
    perplexity: Perplexity  # of held-out neutral text
    divergence: float  # of the edited model on it, nats
    own_answers: OwnAnswers | None = None  # None where the behavior does not depend on the request
    uncalled_for: Named | None = None  # prompts that do not call for the behavior, greedily
    budget: BudgetUse
    facts: Facts
    probe: ProbeResults
    edit: EditResults
    fit: FitResults | None = None  # what the rule predicted; None for the paper's
    search: SearchResults | None = None
    dose_response: list[Point]  # the same rows at other strengths
    examples: list[Example]  # the first prompts that show what the edit works against
    inside: Plain | None = None  # docs/formats.md has its keys
    run_directory: str
    plan: Plain | None = None  # and what it took; None for models so small that nothing is planned
    seconds: float

    @property
    def neutral_text(self) -> NeutralText:
        """What neutral text tells, as an evaluation has it."""
        one = self.perplexity
        return NeutralText(
            text=one.text,
            tokens=one.tokens,
            base_perplexity=one.base,
            edited_perplexity=one.edited,
            rise=one.rise,
            divergence=self.divergence,
        )
