"""Results of a comparison of methods at equal divergence."""

from typing import Literal

from modelsurgery.results.evaluations import EvaluatedBehavior, EvaluatedModel
from modelsurgery.results.parts import FORMAT, Compared, Direction, JudgeNote, Part, Rate


class MethodNote(Part):
    """A method, and where it comes from.

    Attributes:
        name: as it is typed.
        title: in a table.
        source: who published it, and where.
        delivery: how the result can be shipped.
        settings: those of the reference that were used.
        note: where it differs from the reference.
    """

    name: str
    title: str
    source: str
    delivery: str
    settings: str
    note: str


class Cost(Part):
    """What a method takes; differs from run to run.

    Attributes:
        fit_seconds: from texts to a change at any strength.
        peak_bytes: most memory of the process meanwhile; None where the system does not tell.
        tokens_per_second: of generation with the change.
        base_tokens_per_second: of the base model's in the same process.
        touched: parameters that change, or that are added at run time.
    """

    fit_seconds: float
    peak_bytes: int | None
    tokens_per_second: float | None
    base_tokens_per_second: float | None = None
    touched: int


class RivalRow(Part):
    """One method at one strength, measured on held-out data.

    Attributes:
        method: its name.
        seed: of everything random.
        target: divergence on validation text that the strength was chosen for, nats per token.
        strength: what was chosen, in units of the method.
        is_met: whether that divergence was reached, within a tenth.
        divergence: mean KL(base ‖ changed) of held-out neutral text, nats per token; of the base
            model's own answers to harmless requests where that is more.
        perplexity_rise: of the same text, 0.01 for +1 %.
        selectivity: rise of the loss on held-out texts of the behavior less that on their
            opposites, nats per token; the other way round for an edit toward the behavior.
        hits_lost: share of facts (or of next tokens of neutral text) that are no longer right.
        greedy: the behavior with greedy continuations.
        sampled: with one sampled continuation a prompt.
        uncalled: prompts that do not call for the behavior; None where there are none.
        other_judges: rates of the sampled continuations as other judges see them.
        agreement: Cohen's kappa of each other judge with the first.
        tasks: scores of capability tasks, base and changed.
        cost: what it took.
    """

    method: str
    seed: int
    target: float
    strength: float
    is_met: bool
    divergence: float
    perplexity_rise: float
    selectivity: float
    hits_lost: float
    greedy: Compared
    sampled: Compared
    uncalled: Compared | None
    other_judges: dict[str, Compared]
    agreement: dict[str, float | None]
    tasks: dict[str, tuple[Rate, Rate]]
    cost: Cost


class RivalSummary(Part):
    """A method at one divergence, over all seeds.

    Attributes:
        method: its name.
        target: divergence, nats per token.
        seeds: how many.
        is_met: whether all of them reached the divergence.
        divergence: mean, like the next three.
        perplexity_rise: mean.
        selectivity: mean.
        hits_lost: mean.
        greedy: base and changed, over the prompts of all seeds.
        sampled: the same with sampled continuations.
        uncalled: of prompts that do not call for the behavior.
        tasks: scores of capability tasks, base and changed.
        cost: means.
    """

    method: str
    target: float
    seeds: int
    is_met: bool
    divergence: float
    perplexity_rise: float
    selectivity: float
    hits_lost: float
    greedy: tuple[Rate, Rate]
    sampled: tuple[Rate, Rate]
    uncalled: tuple[Rate, Rate] | None
    tasks: dict[str, tuple[Rate, Rate]]
    cost: Cost


class RivalsResults(Part):
    """Methods side by side.

    Attributes:
        format: of this file.
        kind: of results.
        model: which model.
        behavior: what was measured.
        direction: away from the behavior, or toward it.
        prompts: name of the prompt set, and how many prompts.
        judges: the first decides.
        divergences: targets, nats per token.
        seeds: of everything random.
        base_tokens_per_second: of the base model's generation.
        methods: those asked for.
        rows: what was measured.
        summary: the same over all seeds, the largest effect first at each divergence.
        failed: why a method gave nothing, by name.
    """

    format: Literal[3] = FORMAT
    kind: Literal["rivals"] = "rivals"
    model: EvaluatedModel
    behavior: EvaluatedBehavior
    direction: Direction
    prompts: tuple[str, int]
    judges: list[JudgeNote]
    divergences: list[float]
    seeds: list[int]
    base_tokens_per_second: float | None = None
    methods: list[MethodNote]
    rows: list[RivalRow]
    summary: list[RivalSummary]
    failed: dict[str, str]
