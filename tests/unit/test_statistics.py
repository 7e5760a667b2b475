import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, rankdata

from modelsurgery.evaluation.statistics import auroc_interval, corrected, paired_change, rate_of

rates = st.lists(st.sampled_from([0.0, 1 / 3, 0.5, 1.0]), min_size=1, max_size=50)


@pytest.mark.parametrize(("hits", "total"), [(0, 30), (1, 30), (15, 30), (30, 30), (3, 300)])
def test_one_sample_a_prompt_gives_wilsons_interval(hits: int, total: int) -> None:
    rate = rate_of([1.0] * hits + [0.0] * (total - hits))
    expected = binomtest(hits, total).proportion_ci(method="wilson")
    assert (rate.rate, rate.prompts) == (hits / total, total)
    assert rate.low == pytest.approx(expected.low, abs=1e-12)
    assert rate.high == pytest.approx(expected.high, abs=1e-12)


def test_no_case_in_thirty_is_not_certainty() -> None:
    assert rate_of([0.0] * 30).high > 0.1


@given(rates)
def test_an_interval_holds_its_rate(per_prompt: list[float]) -> None:
    rate = rate_of(per_prompt)
    assert 0 <= rate.low <= rate.rate + 1e-12
    assert rate.rate - 1e-12 <= rate.high <= 1


def test_repeating_the_samples_of_a_prompt_narrows_nothing() -> None:
    """Three equal samples of 40 prompts say as much as one: the prompt is the unit."""
    assert rate_of([1.0] * 10 + [0.0] * 30) == rate_of([3 / 3] * 10 + [0 / 3] * 30)


def test_paired_test_is_mcnemars_for_single_samples() -> None:
    base = [1.0] * 20 + [0.0] * 30
    edited = [0.0] * 15 + [1.0] * 5 + [1.0] * 4 + [0.0] * 26
    change = paired_change(base, edited)
    assert (change.decreased, change.increased) == (15, 4)
    tail = sum(math.comb(19, k) for k in range(5)) / 2**19
    assert change.p_value == pytest.approx(2 * tail)
    assert change.difference == pytest.approx(-11 / 50)
    assert change.low < change.difference < change.high < 0


def test_no_change_is_no_evidence() -> None:
    change = paired_change([1.0, 0.0], [1.0, 0.0])
    assert (change.difference, change.p_value) == (0.0, 1.0)
    assert change.verdict == "no detectable change"


def test_no_change_in_few_prompts_is_not_certainty() -> None:
    few, many = (paired_change([0.0] * count, [0.0] * count) for count in (20, 2000))
    assert few.low < -0.1
    assert few.high > 0.1
    assert -0.002 < many.low < 0 < many.high < 0.002


def test_the_bootstrap_interval_covers_the_true_change_about_as_often_as_it_says() -> None:
    """Rates fall from 0.5 to 0.3; 95 % intervals over 200 samples of 80 prompts each."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        base = generator.random(80) < 0.5
        edited = np.where(generator.random(80) < 0.4, False, base)
        change = paired_change(base.astype(float), edited.astype(float))
        held += change.low <= -0.2 <= change.high
    assert 180 <= held <= 199


def test_the_same_data_give_the_same_interval() -> None:
    base, edited = [1.0, 0.0, 1.0, 1.0, 0.5], [0.0, 0.0, 1.0, 0.5, 0.5]
    assert paired_change(base, edited) == paired_change(base, edited)


def test_effect_size_is_cohens_h() -> None:
    change = paired_change([1.0] * 5 + [0.0] * 5, [1.0] * 2 + [0.0] * 8)
    expected = 2 * math.asin(math.sqrt(0.2)) - 2 * math.asin(math.sqrt(0.5))
    assert change.effect_size == pytest.approx(expected)


def test_a_verdict_needs_evidence() -> None:
    assert paired_change([1.0] * 20, [0.0] * 20).verdict == "less"
    assert paired_change([0.0] * 20, [1.0] * 20).verdict == "more"
    assert paired_change([1.0] * 4, [0.0] * 4).verdict == "no detectable change"


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8))
@settings(deadline=None, max_examples=30)
def test_holms_correction_by_its_definition(falls: list[int]) -> None:
    changes = {
        str(number): paired_change([1.0] * fall + [0.0] * (13 - fall), [0.0] * 13)
        for number, fall in enumerate(falls)
    }
    adjusted = corrected(changes)
    assert list(adjusted) == list(changes)
    p_values = sorted(change.p_value for change in changes.values())
    for name, change in changes.items():
        below = [
            min(1.0, p * (len(p_values) - place))
            for place, p in enumerate(p_values)
            if p <= change.p_value
        ]
        assert adjusted[name].adjusted_p_value == pytest.approx(max(below))


def auroc(shows: np.ndarray, opposite: np.ndarray) -> float:
    ranks = rankdata(np.concatenate([shows, opposite]))[: len(shows)]
    return float((ranks.mean() - (len(shows) + 1) / 2) / len(opposite))


@pytest.mark.parametrize(("shift", "each"), [(0.0, 60), (0.5, 100), (1.0, 40), (1.5, 200)])
def test_the_interval_of_an_auroc_is_that_of_a_bootstrap(shift: float, each: int) -> None:
    generator = np.random.default_rng(each)
    shows, opposite = generator.normal(shift, 1, each), generator.normal(0, 1, each)
    again = [
        auroc(generator.choice(shows, each), generator.choice(opposite, each)) for _ in range(2000)
    ]
    area = auroc(shows, opposite)
    low, high = auroc_interval(area, 2 * each)
    assert low < area < high
    assert (high - low) / 2 == pytest.approx(1.96 * np.std(again), rel=0.15)


def test_an_auroc_of_few_texts_may_be_chance() -> None:
    assert auroc_interval(0.6, 20)[0] < 0.5 < auroc_interval(0.6, 400)[0]
    assert auroc_interval(0.02, 4)[0] == 0.0
    assert auroc_interval(0.9, 6)[1] == 1.0
