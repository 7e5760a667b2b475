"""What methods did over all seeds, the largest effect first."""

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from modelsurgery.evaluation.statistics import pooled_rate
from modelsurgery.results import Compared
from modelsurgery.results.parts import Direction, Rate
from modelsurgery.results.rivals import Cost, RivalRow, RivalSummary


def summarize(rows: Iterable[RivalRow], direction: Direction) -> list[RivalSummary]:
    """One line a method and divergence, from rows of all methods, divergences and seeds.

    By divergence; inside of one by the mean of the greedy and the sampled rate, best first.
    """
    groups: dict[tuple[float, str], list[RivalRow]] = {}
    for row in rows:
        groups.setdefault((row.target, row.method), []).append(row)
    sign = 1 if direction == "away" else -1

    def place(one: RivalSummary) -> tuple[float, float]:
        return one.target, sign * (one.greedy[1].rate + one.sampled[1].rate)

    return sorted((_summary(some) for some in groups.values()), key=place)


def _summary(rows: Sequence[RivalRow]) -> RivalSummary:
    def mean(value: Callable[[RivalRow], float]) -> float:
        return fmean(value(row) for row in rows)

    uncalled = [row.uncalled for row in rows if row.uncalled is not None]
    peaks = [row.cost.peak_bytes for row in rows if row.cost.peak_bytes is not None]
    return RivalSummary(
        method=rows[0].method,
        target=rows[0].target,
        seeds=len(rows),
        is_met=all(row.is_met for row in rows),
        divergence=mean(lambda row: row.divergence),
        perplexity_rise=math.expm1(mean(lambda row: math.log1p(row.perplexity_rise))),
        selectivity=mean(lambda row: row.selectivity),
        hits_lost=mean(lambda row: row.hits_lost),
        greedy=_both([row.greedy for row in rows]),
        sampled=_both([row.sampled for row in rows]),
        uncalled=_both(uncalled) if uncalled else None,
        tasks={
            name: (
                pooled_rate([row.tasks[name][0] for row in rows]),
                pooled_rate([row.tasks[name][1] for row in rows]),
            )
            for name in rows[0].tasks
        },
        cost=Cost(
            fit_seconds=mean(lambda row: row.cost.fit_seconds),
            peak_bytes=max(peaks, default=None),
            tokens_per_second=_mean_known(row.cost.tokens_per_second for row in rows),
            base_tokens_per_second=_mean_known(row.cost.base_tokens_per_second for row in rows),
            touched=rows[0].cost.touched,
        ),
    )


def _mean_known(values: Iterable[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return fmean(known) if known else None


def _both(compared: Sequence[Compared]) -> tuple[Rate, Rate]:
    edited = [one.edited for one in compared if one.edited is not None]
    return pooled_rate([one.base for one in compared]), pooled_rate(edited)
