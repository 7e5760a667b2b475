"""Intervals and tests for rates over prompts.

The unit is the prompt: several samples of one prompt are not independent, so they are averaged
first and never counted as if they were more prompts.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap

from modelsurgery.results.parts import NO_CHANGE, Change, ChangeVerdict, Rate

Z_95 = 1.959963984540054
SIGNIFICANCE = 0.05
RESAMPLES = 9999


def rate_of(per_prompt: Sequence[float]) -> Rate:
    """Mean rate with Wilson's 95 % score interval, n being the number of prompts.

    The rate of a prompt, 0..1, is the share of its samples that show the behavior; there is at
    least one prompt. With several samples a prompt the interval is wider than need be, never
    narrower: n prompts count as n trials. Wilson (1927), Journal of the American Statistical
    Association 22.
    """
    return _wilson(float(np.mean(per_prompt)), len(per_prompt))


def pooled_rate(rates: Sequence[Rate]) -> Rate:
    """The rate over the prompts of several measurements, with Wilson's interval for all of them."""
    count = sum(one.prompts for one in rates)
    return _wilson(sum(one.rate * one.prompts for one in rates) / count, count)


def _wilson(rate: float, count: int) -> Rate:
    spread = Z_95**2 / count
    center = (rate + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * math.sqrt(rate * (1 - rate) / count + spread / (4 * count))
    low = 0.0 if rate == 0 else max(0.0, center - half)
    high = 1.0 if rate == 1 else min(1.0, center + half)
    return Rate(rate=rate, low=low, high=high, prompts=count)


def auroc_interval(auroc: float, texts: int) -> tuple[float, float]:
    """95 % interval of an area under the ROC curve, half of the texts being of either label.

    Hanley and McNeil (1982), Radiology 143: the standard error from the area itself.
    """
    each = max(1, texts // 2)
    both = auroc * (1 - auroc)
    spread = (each - 1) * (auroc / (2 - auroc) + 2 * auroc**2 / (1 + auroc) - 2 * auroc**2)
    half = Z_95 * math.sqrt(max(0.0, both + spread)) / each
    return max(0.0, auroc - half), min(1.0, auroc + half)


def paired_change(base: Sequence[float], edited: Sequence[float]) -> Change:
    """Change of a rate over the same prompts, in the same order; at least one.

    The p-value is that of a two-sided sign test over the prompts that changed; with one sample a
    prompt it is McNemar's exact test. The interval is the bias-corrected and accelerated bootstrap
    of the mean difference over prompts. Efron (1987), Journal of the American Statistical
    Association 82. The effect size is Cohen's h of the two rates, 2·asin√edited - 2·asin√base; 0.2
    is small, 0.5 medium, 0.8 large. Cohen (1988), Statistical Power Analysis, chapter 6.
    """
    before, after = np.asarray(base, dtype=float), np.asarray(edited, dtype=float)
    differences = after - before
    decreased, increased = int((differences < 0).sum()), int((differences > 0).sum())
    discordant = decreased + increased
    p_value = float(binomtest(decreased, discordant).pvalue) if discordant else 1.0
    low, high = _mean_interval(differences)
    return Change(
        difference=float(differences.mean()),
        low=low,
        high=high,
        p_value=p_value,
        adjusted_p_value=p_value,
        effect_size=float(2 * np.arcsin(np.sqrt([after.mean(), before.mean()])) @ [1, -1]),
        decreased=decreased,
        increased=increased,
        verdict=_verdict(p_value, decreased, increased),
    )


def corrected(changes: Mapping[str, Change]) -> dict[str, Change]:
    """The same changes with p-values corrected for having been tested together.

    Holm's step-down method: the smallest of m p-values is multiplied by m, the next by m - 1, and
    so on, never falling. Holm (1979), Scandinavian Journal of Statistics 6.
    """
    adjusted: dict[str, Change] = {}
    highest = 0.0
    ordered = sorted(changes, key=lambda name: (changes[name].p_value, name))
    for place, name in enumerate(ordered):
        change = changes[name]
        highest = max(highest, min(1.0, change.p_value * (len(ordered) - place)))
        verdict = _verdict(highest, change.decreased, change.increased)
        adjusted[name] = change.model_copy(update={"adjusted_p_value": highest, "verdict": verdict})
    return {name: adjusted[name] for name in changes}


def _verdict(adjusted_p_value: float, decreased: int, increased: int) -> ChangeVerdict:
    """What may be said."""
    if adjusted_p_value >= SIGNIFICANCE or decreased == increased:
        return NO_CHANGE
    return "less" if decreased > increased else "more"


def _mean_interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the mean of differences in [-1, 1]."""
    if (differences == differences[0]).all():
        # Nothing varies, so nothing can be resampled; but n equal prompts do not rule out a share
        # of others, of up to 1 - 0.025^(1/n), that differ by anything (Clopper and Pearson, 1934).
        unseen = 1 - 0.025 ** (1 / len(differences))
        seen = (1 - unseen) * float(differences[0])
        return seen - unseen, seen + unseen
    interval = bootstrap(
        (differences,), np.mean, n_resamples=RESAMPLES, batch=500, method="BCa", rng=0
    ).confidence_interval
    return float(interval.low), float(interval.high)
