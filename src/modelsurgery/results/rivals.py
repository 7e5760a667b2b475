"""Results of a comparison of methods at equal divergence."""

from typing import Literal

from modelsurgery.results.evaluations import EvaluatedBehavior, EvaluatedModel
from modelsurgery.results.parts import FORMAT, Compared, Direction, JudgeNote, Part, Rate


class MethodNote(Part):
    """A method, and where it comes from."""

    name: str  # as it is typed
    title: str
    source: str  # who published it, and where
    delivery: str  # how the result can be shipped
    settings: str  # those of the reference that were used
    note: str  # where it differs from the reference


class Cost(Part):
    """What a method takes; differs from run to run."""

    fit_seconds: float  # from texts to a change at any strength
    peak_bytes: int | None  # of the process meanwhile; None where the system does not tell
    tokens_per_second: float | None  # of generation with the change
    base_tokens_per_second: float | None = None  # of the base model's in the same process
    touched: int  # parameters that change, or that are added at run time


class RivalRow(Part):
    """One method at one strength, measured on held-out data."""

    method: str
    seed: int  # of everything random
    target: float  # divergence on validation text that the strength was chosen for, nats per token
    strength: float  # what was chosen, in units of the method
    is_met: bool  # whether that divergence was reached, within a tenth
    # Mean KL(base ‖ changed) of held-out neutral text, nats per token; of the base model's own
    # answers to harmless requests where that is more.
    divergence: float
    perplexity_rise: float  # of the same text, 0.01 for +1 %
    # Rise of the loss on held-out texts of the behavior less that on their opposites, nats per
    # token; the other way round for an edit toward the behavior.
    selectivity: float
    hits_lost: float  # share of facts (or of next tokens of neutral text) that are no longer right
    greedy: Compared  # the behavior with greedy continuations
    sampled: Compared  # with one sampled continuation a prompt
    uncalled: Compared | None  # prompts that do not call for the behavior, where there are any
    other_judges: dict[str, Compared]  # rates of the sampled continuations as other judges see them
    agreement: dict[str, float | None]  # Cohen's kappa of each other judge with the first
    tasks: dict[str, tuple[Rate, Rate]]  # scores of capability tasks, base and changed
    cost: Cost


class RivalSummary(Part):
    """A method at one divergence, over all seeds; the names are those of `RivalRow`."""

    method: str
    target: float  # divergence, nats per token
    seeds: int  # how many
    is_met: bool  # whether all of them reached the divergence
    divergence: float  # mean, like the next three and the cost
    perplexity_rise: float
    selectivity: float
    hits_lost: float
    greedy: tuple[Rate, Rate]  # base and changed, over the prompts of all seeds
    sampled: tuple[Rate, Rate]  # the same with sampled continuations
    uncalled: tuple[Rate, Rate] | None  # of prompts that do not call for the behavior
    tasks: dict[str, tuple[Rate, Rate]]  # scores of capability tasks, base and changed
    cost: Cost


class RivalsResults(Part):
    """Methods side by side."""

    format: Literal[3] = FORMAT
    kind: Literal["rivals"] = "rivals"
    model: EvaluatedModel
    behavior: EvaluatedBehavior
    direction: Direction
    prompts: tuple[str, int]  # name of the set, and how many
    judges: list[JudgeNote]  # the first decides
    divergences: list[float]  # targets, nats per token
    seeds: list[int]  # of everything random
    base_tokens_per_second: float | None = None  # of the base model's generation
    methods: list[MethodNote]
    rows: list[RivalRow]
    summary: list[RivalSummary]  # over all seeds, the largest effect first at each divergence
    failed: dict[str, str]  # why a method gave nothing, by name
