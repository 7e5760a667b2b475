"""What a budget counts, and the strengths that a search tries next."""

import itertools
import math

import pytest

from modelsurgery.evaluation.screening import Effect
from modelsurgery.search import Budget, SearchSpace, Setting, Trial
from modelsurgery.search.strength_schedule import corrected_strength, expected_strength

SPACE = SearchSpace(
    probe_layers=(3,),
    rules=("mean-difference", "W1"),
    windows=(None, (2, 3)),
    rows=(0.03, 0.3),
    per_layer=(False, True),
    layer_count=3,
)


def effect(**values: float) -> Effect:
    known = dict.fromkeys(("behavior", "opposite", "clean", "divergence", "capability_lost"), 0.0)
    return Effect(**(known | values))


def trial(strength: float, clean: float, behavior: float = 0.1) -> Trial:
    setting = Setting(3, "W1", 0.1)
    return Trial(0, setting, strength, effect(clean=clean, behavior=behavior))


def test_a_budget_counts_every_limit() -> None:
    budget = Budget(perplexity_rise=0.02, divergence=0.01, capability_drop=1.0)
    used = budget.used(effect(clean=math.log(1.01), divergence=0.002, capability_lost=0.008))
    assert used == pytest.approx(
        {"perplexity": math.log(1.01) / math.log(1.02), "divergence": 0.2, "capability": 0.8}
    )
    assert not budget.allows(effect(divergence=0.009))  # more than 80 %
    assert not budget.allows(effect(clean=math.nan))
    assert budget.binding(effect(capability_lost=0.005)) == ("capability", pytest.approx(0.5))
    nothing = Budget(capability_drop=0.0)
    assert nothing.allows(effect())
    assert not nothing.allows(effect(capability_lost=0.001))
    # Held out: five wrong answers more may be chance, a perplexity over the limit is one.
    assert budget.broken(effect(capability_lost=0.015, capability_error=0.01)) == ()
    assert budget.broken(effect(capability_lost=0.03, capability_error=0.01)) == ("capability",)
    assert budget.broken(effect(clean=math.log(1.021))) == ("perplexity",)


def test_a_second_dose_corrects_the_first() -> None:
    budget = Budget(perplexity_rise=math.expm1(1.0), capability_drop=None)
    # Damage is the square of the strength: 0.72 of the budget is at its root.
    assert corrected_strength(budget, [trial(0.2, 0.04)]) == pytest.approx(math.sqrt(0.72))
    assert corrected_strength(budget, [trial(4.0, 16.0)]) == pytest.approx(math.sqrt(0.72))
    # Two trials tell the power.
    cubic = [trial(0.5, 0.125), trial(2.0, 8.0)]
    assert corrected_strength(budget, cubic) == pytest.approx(0.72 ** (1 / 3), rel=1e-6)
    # Between one that was too weak and one that was too strong, where the power law misleads.
    steep = [trial(2.0, 0.7), trial(2.6, 60.0)]
    assert corrected_strength(budget, steep) == pytest.approx(math.sqrt(2.0 * 2.6))
    # Settled: the aim is reached.
    assert corrected_strength(budget, [trial(0.85, 0.7225)]) is None
    # Never as strong as what was too strong already; nothing is to be had between these two.
    assert corrected_strength(budget, [trial(0.8, 0.5), trial(0.82, 0.9)]) is None
    power = math.log(0.9 / 0.5) / math.log(0.95 / 0.8)
    wanted = corrected_strength(budget, [trial(0.8, 0.5), trial(0.95, 0.9)])
    assert wanted == pytest.approx(0.95 * (0.72 / 0.9) ** (1 / power))


def test_what_other_settings_took_tells_the_strength_of_a_new_one() -> None:
    budget = Budget(perplexity_rise=math.expm1(1.0), capability_drop=None)
    trials = [
        Trial(k, Setting(3, "W1", rows), strength, effect(clean=rows * strength**2))
        for k, (rows, strength) in enumerate(itertools.product((0.05, 0.1, 0.2), (1.0, 2.0, 3.0)))
    ]
    few = expected_strength(SPACE, budget, trials, Setting(3, "W1", 0.05))
    many = expected_strength(SPACE, budget, trials, Setting(3, "W1", 0.3))
    assert few > 1.5 * many
    assert few == pytest.approx(math.sqrt(0.72 / 0.05), rel=0.2)
