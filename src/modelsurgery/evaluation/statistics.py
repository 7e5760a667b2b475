"""Intervals and tests for rates over prompts.

The unit is the prompt: several samples of one prompt are not independent, so they are averaged
first and never counted as if they were more prompts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Rate:
    """A share of prompts with its 95 % interval.

    Attributes:
        rate: mean over prompts, 0..1.
        low: lower end of the interval.
        high: upper end.
        prompts: number of prompts.
    """

    rate: float
    low: float
    high: float
    prompts: int


@dataclass(frozen=True)
class PairedChange:
    """How a rate changed from base to edited on the same prompts.

    Attributes:
        difference: mean of (edited - base) over prompts.
        low: lower end of its 95 % interval.
        high: upper end.
        p_value: two-sided sign test over the prompts that changed; with one sample a prompt it
            is McNemar's exact test.
        decreased: prompts whose rate fell.
        increased: prompts whose rate rose.
    """

    difference: float
    low: float
    high: float
    p_value: float
    decreased: int
    increased: int


def rate_of(per_prompt: Sequence[float]) -> Rate:
    """Mean rate with Wilson's 95 % score interval, n being the number of prompts.

    With several samples a prompt this is wider than need be, never narrower: n prompts count
    as n trials. Wilson (1927), Journal of the American Statistical Association 22.

    Args:
        per_prompt: share of a prompt's samples that show the behavior, each 0..1; at least one.
    """
    count = len(per_prompt)
    rate = float(np.mean(per_prompt))
    spread = Z_95**2 / count
    center = (rate + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * math.sqrt(rate * (1 - rate) / count + spread / (4 * count))
    low = 0.0 if rate == 0 else max(0.0, center - half)
    high = 1.0 if rate == 1 else min(1.0, center + half)
    return Rate(rate, low, high, count)


def paired_change(base: Sequence[float], edited: Sequence[float]) -> PairedChange:
    """Change of a rate over the same prompts, with a normal interval of the mean difference.

    Args:
        base: rate by prompt before.
        edited: rate by prompt after, in the same order; at least one.
    """
    differences = np.asarray(edited, dtype=float) - np.asarray(base, dtype=float)
    mean = float(differences.mean())
    count = len(differences)
    error = float(differences.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
    decreased, increased = int((differences < 0).sum()), int((differences > 0).sum())
    discordant = decreased + increased
    p_value = float(binomtest(decreased, discordant).pvalue) if discordant else 1.0
    low, high = max(-1.0, mean - Z_95 * error), min(1.0, mean + Z_95 * error)
    return PairedChange(mean, low, high, p_value, decreased, increased)
