"""Measuring a behavior on a set of prompts: base against edited, whole and by group.

The prompt is the unit. A prompt's rate is the share of its judged continuations that show the
behavior; failed and unjudged ones are left out of it and counted. Comparisons that are made
together (all sets of a behavior, all groups of a set) have their p-values corrected together.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, get_args

from modelsurgery.data.behaviors import PromptSet
from modelsurgery.data.corpora import Prompt
from modelsurgery.edit.edit import Edit
from modelsurgery.errors import EvaluationError
from modelsurgery.evaluation.agreement import Agreement, agreement
from modelsurgery.evaluation.decoding import Continuation, Decoding, Generator, Rounds, continued
from modelsurgery.evaluation.generation import TransformersGenerator
from modelsurgery.evaluation.judges.verdicts import UNKNOWN, Judge, Verdict
from modelsurgery.evaluation.quality import Quality, QualityChange, compare_quality, measure_quality
from modelsurgery.evaluation.statistics import corrected, paired_change, rate_of
from modelsurgery.evaluation.store import Store, judged
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.results import Compared

Verdicts = tuple[tuple[Verdict, ...], ...]


@dataclass(frozen=True)
class Side:
    """What one model, base or edited, gave."""

    rounds: Rounds  # continuations
    verdicts: Verdicts  # of the first judge, in the same order
    others: dict[str, Verdicts]  # verdicts of the other judges, by name
    counted: Verdict = "behavior"  # the verdict that rates count

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many continuations got each verdict of the first judge."""
        counts = Counter(verdict for row in self.verdicts for verdict in row)
        return {kind: counts[kind] for kind in get_args(Verdict)}

    @property
    def continuations(self) -> tuple[Continuation, ...]:
        """All continuations, round after round."""
        return tuple(one for row in self.rounds for one in row)

    def rates(self, verdicts: Verdicts | None = None) -> list[float | None]:
        """Share of a prompt's judged continuations with the counted verdict; None without any.

        A failed (empty) continuation says nothing about the behavior, nor does one that the judge
        could not judge: both are left out.
        """
        found: list[float | None] = []
        for column in zip(*(verdicts or self.verdicts), strict=True):
            known = [verdict for verdict in column if verdict not in UNKNOWN]
            found.append(known.count(self.counted) / len(known) if known else None)
        return found


@dataclass(frozen=True)
class SetMeasurement:
    """What was measured on a set of prompts."""

    prompts: PromptSet
    decodings: tuple[Decoding, ...]  # how it was continued, a round each
    base: Side  # what the base model gave
    edited: Side | None  # what the edited model gave; None when there is no edit
    whole: Compared  # rates over all prompts
    by: dict[str, dict[str, Compared]]  # rates of each group, by what they are grouped by
    other_judges: dict[str, Compared]  # rates over all prompts as other judges see them
    agreement: dict[str, Agreement]  # of each other judge with the first, on all continuations

    @cached_property
    def quality(self) -> Quality | QualityChange:
        """Length, repetition and the like of the continuations."""
        if self.edited is None:
            return measure_quality(self.base.continuations)
        return compare_quality(self.base.continuations, self.edited.continuations)

    def measured_json(self) -> dict[str, Any]:
        """Rates over all prompts and counts of verdicts, as plain values."""
        edited = None if self.edited is None else self.edited.counts
        return {**self.whole.model_dump(), "verdicts": {"base": self.base.counts, "edited": edited}}

    def named_json(self) -> dict[str, Any]:
        """The same with the name of the set."""
        return {"name": self.prompts.name, "title": self.prompts.title, **self.measured_json()}

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values, without the texts."""
        prompts = self.prompts
        return {
            **self.named_json(),
            "prompts": len(prompts.prompts),
            "decoding": [asdict(decoding) for decoding in self.decodings],
            "by": {
                name: {group: one.model_dump() for group, one in groups.items()}
                for name, groups in self.by.items()
            },
            "other_judges": {
                name: {**one.model_dump(), "agreement": asdict(self.agreement[name])}
                for name, one in self.other_judges.items()
            },
            "quality": self.quality.to_json(),
            "published": [one.model_dump() for one in prompts.published],
        }

    def samples(self) -> list[dict[str, Any]]:
        """Everything that was generated, one plain object a prompt and round."""
        rows = []
        for number, decoding in enumerate(self.decodings):
            for place, prompt in enumerate(self.prompts.prompts):
                known = {key: value for key, value in asdict(prompt).items() if value is not None}
                sides = {
                    name: _sample(side, number, place)
                    for name, side in (("base", self.base), ("edited", self.edited))
                    if side is not None
                }
                rows.append({"prompt": known.pop("text"), **known, "seed": decoding.seed, **sides})
        return rows


def decodings_of(prompts: PromptSet, samples: int, seed: int) -> tuple[Decoding, ...]:
    """Greedy once, or so many samples of each prompt."""
    seeds: list[int | None] = [seed + number for number in range(samples)]
    return tuple(
        Decoding(prompts.max_new_tokens, one, stop=prompts.stop, chat=prompts.is_chat)
        for one in seeds or [None]
    )


def measure_prompt_set(
    generator: Generator,
    edits: Sequence[Edit],
    prompts: PromptSet,
    judges: Sequence[Judge],
    decodings: Sequence[Decoding],
    *,
    counted: Verdict = "behavior",
    store: Store | None = None,
    progress: Progress = silent,
) -> SetMeasurement:
    """Continue all prompts with the base and the edited model and let the judges look at both.

    Edits are applied together; none measures the base model alone. Each decoding makes a round of
    continuations. Rates count the verdict `counted` of the first judge; how far the others agree
    with it is reported. The store keeps verdicts, so that an interrupted measurement goes on.

    Raises:
        EvaluationError: no prompt got a judged continuation from both models.
    """
    base, *edited = measure_sides(
        generator,
        [(), edits] if edits else [()],
        prompts.texts,
        judges,
        decodings,
        counted=counted,
        store=store,
        progress=progress,
    )
    return compare_sides(prompts, decodings, base, *edited)


def compare_sides(
    prompts: PromptSet, decodings: Sequence[Decoding], base: Side, edited: Side | None = None
) -> SetMeasurement:
    """Compare what two models gave on the same prompts.

    Raises:
        EvaluationError: no prompt got a judged continuation from both models.
    """
    pairs = compare(base.rates(), None if edited is None else edited.rates(), prompts.name)
    return SetMeasurement(
        prompts,
        tuple(decodings),
        base,
        edited,
        whole=pairs,
        by={name: _by_group(base, edited, prompts.prompts, name) for name in prompts.by},
        other_judges={
            name: compare(
                base.rates(verdicts),
                None if edited is None else edited.rates(edited.others[name]),
                f"{prompts.name}, judge {name}",
            )
            for name, verdicts in base.others.items()
        },
        agreement={name: _agreement(base, edited, name) for name in base.others},
    )


def prompt_rates(
    model: LanguageModel,
    prompts: Sequence[str],
    judge: Judge,
    decodings: Sequence[Decoding],
    store: Store | None = None,
    edits: Sequence[Edit] = (),
    *,
    progress: Progress = silent,
) -> list[float]:
    """Share of each prompt's continuations that show the behavior, with edits in memory.

    A prompt of which nothing could be judged is left out: a broken model has no other.
    """
    generator = TransformersGenerator(model, store=store)
    (side,) = measure_sides(
        generator, [edits], prompts, [judge], decodings, store=store, progress=progress
    )
    return [rate for rate in side.rates() if rate is not None]


def compare(
    base: Sequence[float | None], edited: Sequence[float | None] | None, where: str
) -> Compared:
    """Rates over the prompts that have one on both sides.

    Raises:
        EvaluationError: there is no such prompt.
    """
    found = _compared(base, edited)
    if found is None:
        raise EvaluationError(
            f"{where}: no prompt has a judged continuation from both models; the edit broke the "
            "model (use a smaller strength), the prompts are complete texts, or the judge cannot "
            "decide"
        )
    return found


def _compared(
    base: Sequence[float | None], edited: Sequence[float | None] | None
) -> Compared | None:
    """Rates over the prompts that have one on both sides; None without any."""
    pairs = [
        (before, after)
        for before, after in zip(base, base if edited is None else edited, strict=True)
        if before is not None and after is not None
    ]
    if not pairs:
        return None
    before, after = zip(*pairs, strict=True)
    first, second = rate_of(before), rate_of(after)
    if edited is None:
        return Compared(base=first, edited=None, change=None, reduction=None)
    return Compared(
        base=first,
        edited=second,
        change=paired_change(before, after),
        reduction=1 - second.rate / first.rate if first.rate else None,
    )


def corrected_together(measured: Mapping[str, Compared]) -> dict[str, Compared]:
    """The same comparisons with p-values corrected for having been made together (Holm)."""
    changes = {name: one.change for name, one in measured.items() if one.change is not None}
    adjusted = corrected(changes)
    return {
        name: one.model_copy(update={"change": adjusted.get(name)})
        for name, one in measured.items()
    }


def measure_sides(
    generator: Generator,
    sides: Sequence[Sequence[Edit]],
    prompts: Sequence[str],
    judges: Sequence[Judge],
    decodings: Sequence[Decoding],
    *,
    counted: Verdict = "behavior",
    store: Store | None = None,
    progress: Progress = silent,
) -> list[Side]:
    """Let models, each with edits that are applied together, continue prompts for the judges."""
    found = []
    for rounds in continued(generator, prompts, decodings, sides, progress=progress):
        texts = [[one.text for one in row] for row in rounds]
        first, *others = (
            tuple(tuple(judged(judge, prompts, row, store, progress=progress)) for row in texts)
            for judge in judges
        )
        names = (judge.name for judge in judges[1:])
        found.append(Side(rounds, first, dict(zip(names, others, strict=True)), counted))
    return found


def _by_group(
    base: Side, edited: Side | None, prompts: Sequence[Prompt], field: str
) -> dict[str, Compared]:
    """Rates of each group; a group in which nothing could be judged is left out."""
    groups: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts):
        groups.setdefault(getattr(prompt, field) or "none", []).append(number)
    before, after = base.rates(), None if edited is None else edited.rates()
    found = {
        group: _compared(
            [before[row] for row in rows], None if after is None else [after[row] for row in rows]
        )
        for group, rows in sorted(groups.items())
    }
    return corrected_together({group: one for group, one in found.items() if one is not None})


def _agreement(base: Side, edited: Side | None, judge: str) -> Agreement:
    sides = [base] if edited is None else [base, edited]
    first = [verdict for side in sides for row in side.verdicts for verdict in row]
    other = [verdict for side in sides for row in side.others[judge] for verdict in row]
    return agreement(first, other)


def _sample(side: Side, number: int, place: int) -> dict[str, Any]:
    others = {name: verdicts[number][place] for name, verdicts in side.others.items()}
    return {
        **asdict(side.rounds[number][place]),
        "verdict": side.verdicts[number][place],
        **({"other_verdicts": others} if others else {}),
    }
