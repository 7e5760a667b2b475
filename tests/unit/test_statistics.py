import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from modelsurgery.evaluation.statistics import paired_change, rate_of

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
