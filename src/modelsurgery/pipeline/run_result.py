"""What a run found, and the same as the values of `results.json`."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from modelsurgery.apply.coverage import Coverage
from modelsurgery.edit.explanation import explain
from modelsurgery.edit.probe import DIRECTION_SOURCES, Probe
from modelsurgery.evaluation.evaluating import Evaluation
from modelsurgery.evaluation.outcome import outcome_of
from modelsurgery.evaluation.screening import Effect
from modelsurgery.evaluation.statistics import Z_95
from modelsurgery.interpret import Inside
from modelsurgery.pipeline.choosing import Choice
from modelsurgery.results import Outcome, RunResults, plain
from modelsurgery.search import Budget, DosePoint, SearchResult, Trial

EXAMPLES = 3


@dataclass(frozen=True)
class RunResult:
    """What a run found."""

    recipe: dict[str, Any]  # what was asked for, as plain values
    directory: Path  # where everything was written
    choice: Choice  # the edit with its probe, and how it was found
    budget: Budget  # what damage was allowed
    evaluation: Evaluation  # of the edit, on held-out data
    given_up: Effect | None  # effect of the first choice, if that was over the budget
    coverage: Coverage  # what the edit changed, of how much
    inside: Inside  # what the edit does inside the model
    seconds: float  # wall time of the whole run
    # What was planned (`Schedule.to_json`), and what each stage took; None without a plan.
    plan: dict[str, Any] | None = None
    origin: dict[str, Any] | None = None  # where a fetched model came from; None for any other

    @property
    def outcome(self) -> Outcome:
        """What became of the behavior."""
        found, greedy = self.evaluation, self.evaluation.greedy
        return outcome_of(
            found.behavior.name,
            self.recipe["direction"],
            found.first.whole,
            None if greedy is None else greedy.whole,
        )

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of the limits that the damage on held-out text is over."""
        return self.budget.broken(self.evaluation.damage.effect)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in `results.json` and `surgery run --json`."""
        return plain(self.results())

    def results(self) -> RunResults:
        """The same as typed values."""
        found, damage, search = self.evaluation, self.evaluation.damage, self.choice.search
        neutral, judge = found.neutral_json(), found.judges[0]
        assert neutral is not None
        limits = partial(limits_json, self.budget, has_uncalled=damage.uncalled is not None)
        facts = None if damage.facts is None else damage.facts.to_json()
        rates = (None, None) if damage.facts is None else damage.facts.rates
        return RunResults.model_validate(
            {
                "model": found.model[0],
                "behavior": self._behavior_json(),
                "origin": self.origin,
                "judge": {"name": judge["name"], "note": judge["note"]},
                "perplexity": {
                    "base": neutral["base_perplexity"],
                    "edited": neutral["edited_perplexity"],
                    "rise": neutral["rise"],
                    "tokens": neutral["tokens"],
                    "text": neutral["text"],
                },
                "divergence": neutral["divergence"],
                "own_answers": found.own_json(),
                "uncalled_for": found.uncalled_json(),
                "budget": {
                    "is_met": not self.broken,
                    "limits": limits(damage.effect),
                    "given_up": self.given_up and limits(self.given_up),
                },
                "facts": {
                    "base": rates[0] and rates[0].rate,
                    "edited": rates[1] and rates[1].rate,
                    "intervals": facts,
                },
                "probe": _probe_json(self.choice.probe),
                "edit": self._edit_json(),
                "fit": self._fit_json(),
                "search": None if search is None else _search_json(search),
                "dose_response": [_point_json(point) for point in self.choice.curve],
                "examples": self._examples(),
                "inside": self.inside.to_json(),
                "run_directory": str(self.directory),
                "plan": self.plan,
                "seconds": self.seconds,
            }
        )

    def _behavior_json(self) -> dict[str, Any]:
        found, greedy = self.evaluation, self.evaluation.greedy
        assert greedy is not None
        return {
            "name": found.behavior.name,
            "title": found.behavior.title,
            "direction": self.recipe["direction"],
            **found.first.measured_json(),
            "samples_per_prompt": self.recipe["samples"],
            "greedy": greedy.measured_json(),
            "outcome": self.outcome,
        }

    def _examples(self) -> list[dict[str, Any]]:
        """The first held-out prompts whose base continuation is what the edit works against."""
        wanted = self.recipe["direction"] == "away"
        against = [
            {
                "prompt": one["prompt"],
                "seed": one["seed"],
                **{side: one[side]["text"] for side in ("base", "edited")},
                **{f"{side}_verdict": one[side]["verdict"] for side in ("base", "edited")},
            }
            for one in self.evaluation.first.samples()
            if (one["base"]["verdict"] == "behavior") == wanted
        ]
        return against[:EXAMPLES]

    @property
    def rule(self) -> str:
        """Which rule the edit comes from."""
        source = self.choice.setting.rule
        return "paper" if source in DIRECTION_SOURCES else source

    def _fit_json(self) -> dict[str, Any] | None:
        """What the rule predicted, and what validation texts say; None for the paper's."""
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
                **effect.measurement.to_json(),
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
            "steps": self.choice.steps,
            "direction_source": self.choice.setting.rule if self.rule == "paper" else None,
            "probe_layer": self.choice.setting.probe_layer,
            "layers": self.choice.setting.window,
            "per_layer": self.choice.setting.per_layer,
        }


def limits_json(budget: Budget, effect: Effect, *, has_uncalled: bool) -> dict[str, Any]:
    """What is measured of each limit, as plain values; points for shares."""
    broken = budget.broken(effect)
    measured = {
        "perplexity": (math.expm1(effect.clean), budget.perplexity_rise),
        "divergence": (effect.worst_divergence, budget.divergence),
        "capability": (100 * effect.capability_lost, budget.capability_drop),
    }
    if has_uncalled:
        measured["uncalled_for"] = (100 * effect.uncalled, budget.uncalled_rise)
    return {
        name: {
            "measured": value,
            "limit": limit,
            "is_inside": None if limit is None else name not in broken,
        }
        for name, (value, limit) in measured.items()
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
        "rate": point.rate,
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
