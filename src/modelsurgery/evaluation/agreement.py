"""How far two judges agree on the same continuations."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsurgery.evaluation.judges.verdicts import UNKNOWN, Verdict

KINDS: tuple[Verdict, ...] = ("behavior", "opposite", "neither")
RESAMPLES = 999


@dataclass(frozen=True)
class Agreement:
    """Agreement of two judges on what both could judge."""

    items: int  # continuations that both judged
    share: float | None  # of them, those with the same verdict; None without any
    # Cohen's kappa, (share - chance) / (1 - chance), chance being what two judges with these
    # frequencies would agree on by accident. 0 is no better than that, 1 is perfect; None where one
    # verdict was given always. Cohen (1960), Educational and Psychological Measurement 20.
    kappa: float | None
    kappa_low: float | None  # lower end of its 95 % interval, a bootstrap over continuations
    kappa_high: float | None  # upper end
    counts: dict[str, dict[str, int]]  # how often the first judge's verdict met the second's


def agreement(first: Sequence[Verdict], second: Sequence[Verdict]) -> Agreement:
    """Agreement of two judges on the same continuations, without what either could not judge."""
    pairs = [
        (one, other)
        for one, other in zip(first, second, strict=True)
        if one not in UNKNOWN and other not in UNKNOWN
    ]
    seen = Counter(pairs)
    table = np.array([[seen[one, other] for other in KINDS] for one in KINDS])
    low, high = _interval(table)
    return Agreement(
        len(pairs),
        float(np.trace(table) / len(pairs)) if pairs else None,
        _kappa(table),
        low,
        high,
        {one: {other: seen[one, other] for other in KINDS} for one in KINDS},
    )


def _kappa(table: NDArray[np.int64]) -> float | None:
    total = table.sum()
    if not total:
        return None
    chance = float(table.sum(0) @ table.sum(1)) / total**2
    return None if chance == 1 else float((np.trace(table) / total - chance) / (1 - chance))


def _interval(table: NDArray[np.int64]) -> tuple[float | None, float | None]:
    total = int(table.sum())
    if not total:
        return None, None
    drawn = np.random.default_rng(0).multinomial(total, table.ravel() / total, RESAMPLES)
    kappas = [one for row in drawn if (one := _kappa(row.reshape(table.shape))) is not None]
    if not kappas:
        return None, None
    low, high = np.quantile(kappas, [0.025, 0.975])
    return float(low), float(high)
