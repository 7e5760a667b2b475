"""What a run found, and the same as plain values for `results.json` and every report."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelsurgery.apply.coverage import Coverage
from modelsurgery.data.behaviors import Behavior
from modelsurgery.edit.explanation import explain
from modelsurgery.edit.probe import DIRECTION_RULES, Probe
from modelsurgery.evaluation.measurement import BehaviorMeasurement, Sample
from modelsurgery.evaluation.outcome import Outcome, outcome_of
from modelsurgery.evaluation.screening import Effect
from modelsurgery.evaluation.statistics import Z_95, Rate
from modelsurgery.interpret import Inside
from modelsurgery.pipeline.choosing import Choice
from modelsurgery.search import Budget, DosePoint, SearchResult, Trial

EXAMPLES = 3


@dataclass(frozen=True)
class Damage:
    """What an edit does to held-out neutral text and facts, and what was allowed.

    Attributes:
        budget: the limits.
        effect: rises and shares lost, with errors.
        clean_loss: of the base model, nats a token of neutral text.
        tokens: predicted tokens of neutral text.
        own_answers: how many of the model's own answers the divergence was measured on too.
        uncalled: prompts that do not call for the behavior, before and after; None without any.
    """

    budget: Budget
    effect: Effect
    clean_loss: float
    tokens: int
    own_answers: int = 0
    uncalled: BehaviorMeasurement | None = None

    @property
    def perplexity_rise(self) -> float:
        """Relative rise of the perplexity, 0.05 for +5 %."""
        return math.expm1(self.effect.clean)

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of the limits that it is over."""
        return self.budget.broken(self.effect)

    @property
    def is_within_budget(self) -> bool:
        """Whether it is over no limit."""
        return not self.broken

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        effect = self.effect
        measured = {
            "perplexity": (self.perplexity_rise, self.budget.perplexity_rise),
            "divergence": (effect.worst_divergence, self.budget.divergence),
            "capability": (100 * effect.capability_lost, self.budget.capability_drop),
        }
        if self.uncalled is not None:
            measured["uncalled_for"] = (100 * effect.uncalled, self.budget.uncalled_rise)
        return {
            name: {
                "measured": value,
                "limit": limit,
                "is_inside": None if limit is None else name not in self.broken,
            }
            for name, (value, limit) in measured.items()
        }


@dataclass(frozen=True)
class RunResult:
    """What a run found.

    Attributes:
        recipe: what was asked for, as plain values.
        directory: where everything was written.
        model: name of the model.
        behavior: the behavior with its texts.
        judge: name and note of the judge.
        choice: the edit with its probe, and how it was found.
        given_up: damage of the first choice, if that was over the budget.
        coverage: what it changed, of how much.
        sampled: behavior before and after, sampled.
        greedy: behavior before and after, greedy.
        damage: to held-out neutral text and facts.
        facts: exact match, base and edited; None where there are no facts.
        inside: what the edit does inside the model.
        seconds: wall time of the whole run.
        plan: what was planned (`Schedule.to_json`), and what each stage took; None without a plan.
        origin: where a fetched model came from; None for any other.
    """

    recipe: dict[str, Any]
    directory: Path
    model: str
    behavior: Behavior
    judge: tuple[str, str]
    choice: Choice
    given_up: Damage | None
    coverage: Coverage
    sampled: BehaviorMeasurement
    greedy: BehaviorMeasurement
    damage: Damage
    facts: tuple[Rate, Rate] | None
    inside: Inside
    seconds: float
    plan: dict[str, Any] | None = None
    origin: dict[str, Any] | None = None

    @property
    def outcome(self) -> Outcome:
        """What became of the behavior."""
        direction = self.recipe["direction"]
        return outcome_of(self.behavior.name, direction, self.sampled, self.greedy)

    @property
    def is_within_budget(self) -> bool:
        """Whether the damage on held-out text stayed inside the budget."""
        return self.damage.is_within_budget

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in `results.json` and `surgery run --json`."""
        damage, facts, search = self.damage, self.facts, self.choice.search
        return {
            "model": self.model,
            "behavior": {
                "name": self.behavior.name,
                "title": self.behavior.title,
                "direction": self.recipe["direction"],
                **_behavior_json(self.sampled),
                "samples_per_prompt": self.recipe["samples"],
                "greedy": _behavior_json(self.greedy),
                "outcome": asdict(self.outcome),
            },
            "origin": self.origin,
            "judge": {"name": self.judge[0], "note": self.judge[1]},
            "perplexity": {
                "base": math.exp(damage.clean_loss),
                "edited": math.exp(damage.clean_loss + damage.effect.clean),
                "rise": damage.perplexity_rise,
                "tokens": damage.tokens,
                "text": self.behavior.neutral_note,
            },
            "divergence": damage.effect.divergence,
            "own_answers": self._own_json(),
            "uncalled_for": self._uncalled_json(),
            "budget": {
                "is_met": self.is_within_budget,
                "limits": damage.to_json(),
                "given_up": None if self.given_up is None else self.given_up.to_json(),
            },
            "facts": {
                "base": facts[0].rate if facts else None,
                "edited": facts[1].rate if facts else None,
                "intervals": [asdict(rate) for rate in facts] if facts else None,
            },
            "probe": _probe_json(self.choice.probe),
            "edit": self._edit_json(),
            "fit": self._fit_json(),
            "search": None if search is None else _search_json(search),
            "dose_response": [_point_json(point) for point in self.choice.curve],
            "examples": [asdict(sample) for sample in self.examples()],
            "inside": self.inside.to_json(),
            "run_directory": str(self.directory),
            "plan": self.plan,
            "seconds": self.seconds,
        }

    def examples(self) -> tuple[Sample, ...]:
        """The first held-out prompts whose base continuation is what the edit works against."""
        wanted = self.recipe["direction"] == "away"
        against = [
            sample
            for sample in self.sampled.samples
            if (sample.base_verdict == "behavior") == wanted
        ]
        return tuple(against[:EXAMPLES])

    @property
    def rule(self) -> str:
        """Which rule the edit comes from."""
        source = self.choice.setting.rule
        return "paper" if source in DIRECTION_RULES else source

    def _own_json(self) -> dict[str, Any] | None:
        """What the edit does to the model's own answers; None without any."""
        damage = self.damage
        if not damage.own_answers:
            return None
        return {
            "divergence": damage.effect.own,
            "answers": damage.own_answers,
            "counts": damage.effect.own > damage.effect.divergence,
        }

    def _uncalled_json(self) -> dict[str, Any] | None:
        """Prompts that do not call for the behavior, greedily; None without any."""
        measured, described = self.damage.uncalled, self.behavior.described.uncalled_for
        if measured is None or described is None or self.behavior.uncalled is None:
            return None
        return {
            "name": described.name,
            "title": self.behavior.uncalled.title,
            **_behavior_json(measured),
        }

    def _fit_json(self) -> dict[str, Any] | None:
        """What the rule predicted, and what was measured on tuning texts; None for the paper's."""
        choice = self.choice
        if choice.proposal is None or self.rule == "paper":
            return None
        effect = next((point.effect for point in choice.curve if point.is_chosen), None)
        if effect is None and choice.strength is not None:
            effect = choice.strength.effect
        explained = explain(choice.edit)
        return {
            "damping": choice.setting.damping,
            "evidence": None if choice.evidence is None else asdict(choice.evidence),
            **dict.fromkeys(("predicted", "by_layer", "rows")),
            **({} if explained is None else explained.to_json()),
            "measured": None
            if effect is None
            else {
                **asdict(effect.measurement),
                "behavior": effect.behavior,
                "opposite": effect.opposite,
            },
        }

    def _edit_json(self) -> dict[str, Any]:
        coverage, edit = self.coverage, self.choice.edit
        return {
            "rows": coverage.rows_edited,
            "rows_found": coverage.rows_found,
            "tensors": coverage.tensors_edited,
            "tensors_found": coverage.tensors_found,
            "bytes_changed": coverage.bytes_changed,
            "bytes_total": coverage.bytes_total,
            "alpha": edit.alpha,
            "strength": edit.strength,
            "rule": self.rule,
            "direction_rule": self.choice.setting.rule if self.rule == "paper" else None,
            "probe_layer": self.choice.setting.probe_layer,
            "layers": self.choice.setting.window,
            "per_layer": self.choice.setting.per_layer,
        }


def _behavior_json(measured: BehaviorMeasurement) -> dict[str, Any]:
    return {
        "base": asdict(measured.base),
        "edited": asdict(measured.edited),
        "change": {**asdict(measured.change), "verdict": measured.change.verdict},
        "reduction": measured.reduction,
        "verdicts": {"base": measured.base_verdicts, "edited": measured.edited_verdicts},
    }


def _probe_json(probe: Probe) -> dict[str, Any]:
    assert probe.metrics is not None
    return {"layer": probe.layer, "fit": probe.fit, **asdict(probe.metrics)}


def _search_json(search: SearchResult) -> dict[str, Any]:
    seconds, made = search.seconds
    return {
        "base_rate": search.base_rate,
        "chosen": search.best.number,
        "survivors": [{"trial": one.trial.number, "rate": one.rate} for one in search.survivors],
        "rank_correlation": search.rank_correlation,
        "front": [trial.number for trial in search.front],
        "trials": [_trial_json(trial) for trial in search.trials],
        "broken": search.broken,
        "trials_made": made,
        "seconds": seconds,
    }


def _trial_json(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        **trial.setting.to_json(),
        "strength": trial.strength,
        "selectivity": trial.effect.selectivity,
        "effect": asdict(trial.effect),
    }


def _point_json(point: DosePoint) -> dict[str, Any]:
    effect = point.effect
    return {
        "strength": point.strength,
        "is_chosen": point.is_chosen,
        "rate": None if point.rate is None else asdict(point.rate),
        "selectivity": effect.selectivity,
        "perplexity_rise": _with_interval(effect.clean, effect.clean_error, math.expm1),
        "divergence": _with_interval(effect.divergence, effect.divergence_error),
        "capability_drop": _with_interval(
            100 * effect.capability_lost, 100 * effect.capability_error
        ),
        "own_divergence": _with_interval(effect.own, effect.own_error),
        "uncalled_for": _with_interval(100 * effect.uncalled, 100 * effect.uncalled_error),
        "used": point.used,
        "is_inside": all(used <= 1 for used in point.used.values()),
    }


def _with_interval(
    value: float, error: float, told: Callable[[float], float] = float
) -> dict[str, float]:
    low, high = value - Z_95 * error, value + Z_95 * error
    return {"value": told(value), "low": told(low), "high": told(high)}
