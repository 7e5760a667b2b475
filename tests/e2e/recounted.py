"""Figures of a run counted again from what it generated, by their definitions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

Z = 1.959964
Pair = tuple[float, float]  # rates of a prompt, base and edited


def samples_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def prompt_rates(samples: Sequence[dict[str, Any]]) -> dict[str, Pair]:
    """Rates of prompts that were judged on both sides, samples of a prompt averaged."""
    verdicts: dict[str, tuple[list[str], list[str]]] = {}
    for one in samples:
        sides = verdicts.setdefault(one["prompt"], ([], []))
        for found, side in zip(sides, ("base", "edited"), strict=True):
            if one[side]["verdict"] not in ("failed", "unjudged"):
                found.append(one[side]["verdict"])
    return {
        prompt: (sides[0].count("behavior") / len(sides[0]),
                 sides[1].count("behavior") / len(sides[1]))
        for prompt, sides in verdicts.items() if all(sides)
    }  # fmt: skip


def check_rate(told: dict[str, float], rates: Sequence[float]) -> None:
    """A mean with Wilson's interval: the ends are where the rate is Z standard errors away."""
    rate = float(np.mean(rates))
    assert told["prompts"] == len(rates)
    assert told["rate"] == pytest.approx(rate)
    for end, outermost in ((told["low"], 0.0), (told["high"], 1.0)):
        if end == outermost:
            assert rate == outermost
        else:
            error = Z * np.sqrt(end * (1 - end) / len(rates))
            assert abs(end - rate) == pytest.approx(error, rel=1e-3)
    assert told["low"] < told["high"]


def check_change(told: dict[str, Any], pairs: Sequence[Pair]) -> None:
    """The paired change: a sign test, and an interval as wide as the normal one nearly is."""
    differences = np.array([after - before for before, after in pairs])
    fell, rose = int((differences < 0).sum()), int((differences > 0).sum())
    assert (told["decreased"], told["increased"]) == (fell, rose)
    assert told["difference"] == pytest.approx(float(differences.mean()))
    p_value = binomtest(fell, fell + rose).pvalue if fell + rose else 1.0
    assert told["p_value"] == pytest.approx(p_value)
    if fell + rose:
        half = Z * float(differences.std()) / np.sqrt(len(differences))
        assert told["low"] == pytest.approx(told["difference"] - half, abs=0.25 * half)
        assert told["high"] == pytest.approx(told["difference"] + half, abs=0.25 * half)
    if told["adjusted_p_value"] >= 0.05 or fell == rose:
        assert told["verdict"] == "no detectable change"
    else:
        assert told["verdict"] == ("less" if fell > rose else "more")


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: the largest, over all that are no larger, of p times what is left."""
    count = len(p_values)
    ordered = sorted(p_values)
    return [
        min(1.0, max((count - place) * one for place, one in enumerate(ordered) if one <= value))
        for value in p_values
    ]
