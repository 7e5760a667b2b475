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
    """The behavior of a run on held-out prompts; rates are those of sampled continuations.

    Attributes:
        direction: that the surgery was meant to go.
        samples_per_prompt: sampled continuations of a prompt.
        greedy: the same prompts, continued greedily.
        outcome: what became of the behavior; None in files of earlier versions.
    """

    direction: Direction
    samples_per_prompt: int
    greedy: Measured
    outcome: Outcome | None = None


class Perplexity(Part):
    """Perplexity of held-out neutral text.

    Attributes:
        base: of the base model.
        edited: of the edited model.
        rise: relative, 0.05 is +5 %.
        tokens: predicted tokens.
        text: what the text is.
    """

    base: float
    edited: float
    rise: float
    tokens: int
    text: str


class BudgetUse(Part):
    """What was allowed, and what of it was used on held-out data.

    Attributes:
        is_met: whether the damage is over no limit.
        limits: by name.
        given_up: the same of a stronger edit that was over the budget; None without one.
    """

    is_met: bool
    limits: Limits
    given_up: Limits | None


class Facts(Part):
    """Exact match of greedy answers to facts; all None where there are none.

    Attributes:
        base: share of the base model.
        edited: share of the edited model.
        intervals: both with their intervals.
    """

    base: float | None
    edited: float | None
    intervals: tuple[Rate, Rate] | None


class ProbeResults(Part):
    """How well the probe tells labels apart on held-out texts.

    Attributes:
        layer: that it reads, 1..L; None where that is not known.
        fit: how it was fitted.
        accuracy: on held-out texts.
        auroc: the same.
        control_accuracy: after fitting on shuffled labels.
        control_auroc: the same.
        train_texts: texts that it was fitted on.
        test_texts: texts that it was measured on.
    """

    layer: int | None
    fit: str | None
    accuracy: float
    auroc: float
    control_accuracy: float
    control_auroc: float
    train_texts: int
    test_texts: int


class EditResults(Part):
    """What was edited.

    Attributes:
        rows: edited gate rows.
        rows_found: of all.
        tensors: gate tensors with edited rows.
        tensors_found: of all.
        bytes_changed: of the weights.
        bytes_total: of all weights.
        alpha: strength, as the paper counts.
        strength: the same in portable units.
        rule: that the edit comes from; files of earlier versions are the paper's.
        steps: of the rule; None in files of earlier versions, which took one.
        direction_source: what the paper's rule took from the probe; None for other rules.
        probe_layer: layer of that probe.
        layers: first and last; None for all.
        per_layer: whether each layer gives its share.
    """

    rows: int
    rows_found: int
    tensors: int
    tensors_found: int
    bytes_changed: int
    bytes_total: int
    alpha: float
    strength: float
    rule: str = "paper"
    steps: int | None = None
    direction_source: str | None = None
    probe_layer: int | None = None
    layers: tuple[int, int] | None
    per_layer: bool


class FitResults(Grown):
    """What a rule predicted, and what was measured on validation texts.

    Attributes:
        damping: of rows; None is the rule's own.
        evidence: whether the texts agree: `gain`, `error`, `folds`; None for rules that can't tell.
        predicted: `gain` and `divergence`, nats per token; None where a rule predicts nothing.
        by_layer: the same of the rows of each layer.
        rows: those with the highest gain; None in files of earlier versions.
        measured: `gain`, `divergence`, `behavior` and `opposite`; None where nobody measured them.
    """

    damping: float | None = None
    evidence: dict[str, float] | None = None
    predicted: dict[str, float] | None
    by_layer: list[Plain] | None = None
    rows: list[Plain] | None = None
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
    """What a search tried.

    Attributes:
        base_rate: of the base model on validation prompts.
        chosen: number of the chosen trial.
        survivors: trials that continued prompts, best first.
        rank_correlation: Spearman's, of the cheap measure with the judge.
        front: trials that no other beats in both effect and damage.
        trials: all.
        broken: trials that broke the model.
    """

    base_rate: float | None
    chosen: int
    survivors: list[SurvivorResults]
    rank_correlation: float | None
    front: list[int]
    trials: list[TrialResults]
    broken: int


class Point(Part):
    """The chosen rows at another strength, on validation data.

    Attributes:
        strength: in portable units.
        is_chosen: whether it is that of the edit.
        rate: of prompts that show the behavior; None if nothing could be judged.
        selectivity: nats per token.
        perplexity_rise: relative.
        divergence: on neutral text, nats.
        own_divergence: on the model's own answers; None in files of earlier versions.
        capability_drop: points.
        uncalled_for: points; None in files of earlier versions.
        used: share of each limit.
        is_inside: whether it is over none.
    """

    strength: float
    is_chosen: bool
    rate: Rate | None
    selectivity: float
    perplexity_rise: Interval
    divergence: Interval
    capability_drop: Interval
    own_divergence: Interval | None = None
    uncalled_for: Interval | None = None
    used: dict[str, float]
    is_inside: bool


class Example(Part):
    """A held-out prompt with the continuations and verdicts of both models."""

    prompt: str
    seed: int | None = None
    base: str
    edited: str
    base_verdict: str
    edited_verdict: str


class RunResults(Part):
    """Results of `surgery run` and `tune`.

    Attributes:
        format: of this file.
        kind: of results.
        model: its name.
        behavior: before and after, on held-out prompts.
        origin: where a fetched model came from; None for any other.
        judge: who judged.
        perplexity: of held-out neutral text.
        divergence: of the edited model on it, nats.
        own_answers: None where the behavior does not depend on the request.
        uncalled_for: prompts that do not call for the behavior, greedily; None without any.
        budget: what was allowed, and what of it was used.
        facts: exact match.
        probe: how well the labels can be told apart.
        edit: what was edited.
        fit: what the rule predicted; None for the paper's.
        search: None without one.
        dose_response: the same rows at other strengths.
        examples: the first prompts that show what the edit works against.
        inside: what the edit does inside the model (docs/formats.md has its keys).
        run_directory: as typed.
        plan: what was planned, and what it took; None for models so small that nothing is.
        seconds: wall time.
    """

    format: Literal[3] = FORMAT
    kind: Literal["run"] = "run"
    model: str
    behavior: RunBehavior
    origin: Plain | None = None
    judge: JudgeNote
    perplexity: Perplexity
    divergence: float
    own_answers: OwnAnswers | None = None
    uncalled_for: Named | None = None
    budget: BudgetUse
    facts: Facts
    probe: ProbeResults
    edit: EditResults
    fit: FitResults | None = None
    search: SearchResults | None = None
    dose_response: list[Point]
    examples: list[Example]
    inside: Plain | None = None
    run_directory: str
    plan: Plain | None = None
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
