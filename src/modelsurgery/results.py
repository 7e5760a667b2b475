"""What a run found, and the same as plain values for `results.json` and every report."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelsurgery.apply.coverage import Coverage
from modelsurgery.behaviors import Behavior
from modelsurgery.edit import Edit
from modelsurgery.evaluation.language_modelling import LanguageModelling
from modelsurgery.evaluation.measurement import BehaviorMeasurement, Sample
from modelsurgery.evaluation.statistics import Rate
from modelsurgery.probe import Probe
from modelsurgery.tuning import Candidate, SearchResult

EXAMPLES = 3


@dataclass(frozen=True)
class RunResult:
    """What a run found.

    Attributes:
        recipe: what was asked for, as plain values.
        directory: where everything was written.
        model: name of the model.
        behavior: the behavior with its texts.
        judge: name and note of the judge.
        probe: the fitted probe with its metrics.
        edit: the edit.
        search: how it was found; None when it was given.
        coverage: what it changed, of how much.
        sampled: behavior before and after, sampled.
        greedy: behavior before and after, greedy.
        language_modelling: perplexity and divergence on neutral text.
        facts: exact match, base and edited; None where there are no facts.
        seconds: wall time of the whole run.
    """

    recipe: dict[str, Any]
    directory: Path
    model: str
    behavior: Behavior
    judge: tuple[str, str]
    probe: Probe
    edit: Edit
    search: SearchResult | None
    coverage: Coverage
    sampled: BehaviorMeasurement
    greedy: BehaviorMeasurement
    language_modelling: LanguageModelling
    facts: tuple[Rate, Rate] | None
    seconds: float

    @property
    def perplexity_rise(self) -> float:
        """Relative rise of the perplexity on held-out neutral text, 0.05 for +5 %."""
        measured = self.language_modelling
        return measured.edited_perplexity / measured.base_perplexity - 1

    @property
    def is_within_budget(self) -> bool:
        """Whether the damage on held-out text stayed inside the budget."""
        return self.perplexity_rise <= float(self.recipe["max_perplexity_rise"])

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in `results.json` and `surgery run --json`."""
        measured = self.language_modelling
        facts = self.facts
        return {
            "model": self.model,
            "behavior": {
                "name": self.behavior.name,
                "title": self.behavior.title,
                "direction": self.recipe["direction"],
                **_behavior_json(self.sampled),
                "samples_per_prompt": self.recipe["samples"],
                "greedy": _behavior_json(self.greedy),
            },
            "judge": {"name": self.judge[0], "note": self.judge[1]},
            "perplexity": {
                "base": measured.base_perplexity,
                "edited": measured.edited_perplexity,
                "rise": self.perplexity_rise,
                "budget": self.recipe["max_perplexity_rise"],
                "is_within_budget": self.is_within_budget,
                "tokens": measured.tokens,
                "text": self.behavior.neutral_note,
            },
            "divergence": measured.divergence,
            "facts": {
                "base": facts[0].rate if facts else None,
                "edited": facts[1].rate if facts else None,
                "intervals": [asdict(rate) for rate in facts] if facts else None,
            },
            "probe": _probe_json(self.probe),
            "edit": self._edit_json(),
            "search": _search_json(self.search) if self.search else None,
            "examples": [asdict(sample) for sample in self.examples()],
            "run_directory": str(self.directory),
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

    def _edit_json(self) -> dict[str, Any]:
        coverage, settings = self.coverage, self.edit.provenance.settings
        return {
            "rows": coverage.rows_edited,
            "rows_found": coverage.rows_found,
            "tensors": coverage.tensors_edited,
            "tensors_found": coverage.tensors_found,
            "bytes_changed": coverage.bytes_changed,
            "bytes_total": coverage.bytes_total,
            "alpha": self.edit.alpha,
            "strength": self.edit.strength,
            "direction_rule": settings["direction_rule"],
            "layers": settings["layers"],
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
    return {
        "base_rate": search.base_rate,
        "candidates": [_candidate_json(candidate) for candidate in search.candidates],
    }


def _candidate_json(candidate: Candidate) -> dict[str, Any]:
    losses = candidate.selectivity
    return {
        "probe_layer": candidate.probe_layer,
        "direction_rule": candidate.rule,
        "rows": candidate.rows,
        "layers": candidate.window,
        "strength": candidate.strength,
        "selectivity": losses.value,
        "loss_rise": {
            "behavior": losses.behavior,
            "opposite": losses.opposite,
            "clean": losses.clean,
        },
        "rate": candidate.rate,
    }
