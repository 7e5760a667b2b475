"""Tuning: what trials cost, and what a search finds with so many of them.

    python -m benchmarks.tuning [--model DIR] [--behavior NAME] [--data DIR] [--seeds N]

Cost: a trial of the search, several edits in one forward pass, against one edit at a time, and
against loading the model for each edit. Quality: the most selectivity inside the budget, and the
behavior on held-out prompts of the edit that the judge then prefers, for our search, for random
search and for the paper's setting with as many strengths, all with the same number of trials, and
for two grids of 200 points. Every way is judged alike: its most promising trials continue
validation prompts, the best of them is measured on held-out prompts.
"""

import argparse
import itertools
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from optuna.samplers import RandomSampler

from modelsurgery import demo_model_path, extract_hidden_states, load_model
from modelsurgery.apply.in_memory import edited
from modelsurgery.data.behaviors import Behavior, describe_behavior, load_behavior
from modelsurgery.edit.region import PAPER_ROWS
from modelsurgery.evaluation.judges import Judge, judge_for
from modelsurgery.evaluation.protocol import decodings_of, prompt_rates
from modelsurgery.evaluation.screening import Screen
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.probe_fitting import fit_probe_on_texts
from modelsurgery.search import Budget, Search, Setting, Study, Trial, default_space

TRIALS = 40
BUDGET = Budget(0.05, None, 2.0)
SAMPLES = 2  # of each held-out prompt


@dataclass(frozen=True)
class Case:
    """A model with a behavior, ready to be searched."""

    model: LanguageModel
    behavior: Behavior
    judge: Judge
    search: Search


def prepared(model_path: Path, name: str, data: Path | None) -> Case:
    model = load_model(model_path)
    described = describe_behavior(name)
    is_demo = described.demo and model_path == demo_model_path()
    behavior = load_behavior(described, is_demo=is_demo, data=data)
    space = default_space(model.layer_count)
    layers = [layer for layer in space.probe_layers if layer is not None]
    texts = [model.render(text) for text in (*behavior.train, *behavior.test)]
    states = extract_hidden_states(model, texts, layers)
    probes = [
        fit_probe_on_texts(
            states.by_layer[layer], behavior.train, behavior.test, layer=layer, fit="adam"
        )
        for layer in layers
    ]
    judge = judge_for(behavior)
    return Case(model, behavior, judge, Search(model, behavior, judge, probes, space, BUDGET))


def measured(search: Search, points: Iterable[tuple[Setting, float]]) -> list[Trial]:
    """Trials of given points, without a study."""
    points = list(points)
    effects = search.screen.measure([search.edit_of(*point) for point in points])
    return [Trial(k, *points[k], effect) for k, effect in enumerate(effects) if effect.is_finite]


def wide_grid(search: Search) -> list[tuple[Setting, float]]:
    """200 points without knowledge of what steers well."""
    first, middle = search.space.probe_layers[0], search.space.probe_layers[-1]
    rows = (0.005, 0.01, 0.02, PAPER_ROWS, 0.08)
    strengths = (1.0, 2.0, 4.0, 8.0, 16.0)
    settings = itertools.product((first, middle), ("mean-difference", "W1"), rows, windows(search))
    return list(itertools.product([Setting(*one) for one in settings], strengths))


def narrow_grid(search: Search) -> list[tuple[Setting, float]]:
    """200 points of the direction that steers best, with finer strengths."""
    layers = search.space.probe_layers[1:]
    rows = (0.005, 0.01, 0.02, PAPER_ROWS, 0.08)
    settings = itertools.product(layers, ("mean-difference",), rows, windows(search))
    strengths = np.geomspace(1, 8, 10).tolist()
    return list(itertools.product([Setting(*one) for one in settings], strengths))


def windows(search: Search) -> tuple[tuple[int, int] | None, ...]:
    count = search.space.layer_count
    return (None, (count // 2 + 1, count))


def papers(search: Search) -> list[tuple[Setting, float]]:
    """The paper's direction, rows and layers with as many strengths as others have trials."""
    setting = Setting(search.space.probe_layers[0], "W1", PAPER_ROWS)
    return [(setting, strength) for strength in np.geomspace(0.5, 32, TRIALS).tolist()]


def searched(case: Case, seed: int, is_random: bool) -> list[Trial]:
    """What 40 trials find; random search begins with nothing and follows nothing up."""
    search = case.search
    if not is_random:
        with Study(search.space, {}, seed=seed) as study:
            search.make_trials(study, TRIALS)
            return study.trials()
    generator = np.random.default_rng(seed)
    with Study(search.space, {}, sampler=RandomSampler(seed=seed)) as study:
        settings = [study.ask().setting for _ in range(TRIALS)]
    strengths = np.exp(generator.uniform(math.log(0.5), math.log(32), TRIALS)).tolist()
    return measured(search, zip(settings, strengths, strict=True))


def outcome(case: Case, trials: Sequence[Trial]) -> tuple[float, float]:
    """Best selectivity inside the budget, and the held-out rate of the edit that is preferred."""
    promising = case.search.most_promising(trials)
    test = case.behavior.prompt_sets[0]
    survivors, _ = case.search.judged(promising)
    edits = [case.search.edit_of(one.trial.setting, one.trial.strength) for one in survivors[:1]]
    rates = [
        statistics.fmean(
            prompt_rates(
                case.model, test.texts, case.judge, decodings_of(test, 1, seed), None, edits
            )
        )
        for seed in range(100, 100 + SAMPLES)
    ]
    return (promising[0].effect.selectivity if promising else 0.0, statistics.fmean(rates))


def print_quality(case: Case, seeds: int, chosen: Sequence[str] | None) -> None:
    base = outcome(case, [])[1]
    count = len(case.behavior.prompt_sets[0].texts)
    print(f"\nbehavior {case.behavior.name}, base {base:.1%} of {count} held-out prompts, "
          f"{SAMPLES} samples each; median (range) over {seeds} seeds\n")  # fmt: skip
    print("| way | trials | selectivity inside the budget | held-out rate | trials inside |")
    print("|---|---|---|---|---|")
    search = case.search
    ways: dict[str, Callable[[], list[list[Trial]]]] = {
        "search": lambda: [searched(case, seed, is_random=False) for seed in range(seeds)],
        "random search": lambda: [searched(case, seed, is_random=True) for seed in range(seeds)],
        "the paper's setting, 40 strengths": lambda: [measured(search, papers(search))],
        "wide grid": lambda: [measured(search, wide_grid(search))],
        "narrow grid": lambda: [measured(search, narrow_grid(search))],
    }
    for name in chosen or ways:
        runs = ways[name]()
        found = [outcome(case, trials) for trials in runs]
        inside = statistics.fmean(
            sum(BUDGET.allows(trial.effect, 0.8) for trial in trials) for trials in runs
        )
        selectivity, rate = zip(*found, strict=True)
        print(f"| {name} | {max(map(len, runs))} | {_shown(selectivity, '.3f')} | "
              f"{_shown(rate, '.1%')} | {inside:.0f} |", flush=True)  # fmt: skip


def print_cost(case: Case, rounds: int) -> None:
    """Seconds a trial, of three ways, in turn."""
    search, model, behavior = case.search, case.model, case.behavior
    points = wide_grid(search)[:16]
    edits = [search.edit_of(*point) for point in points]
    shows, opposite = (
        [model.render(text) for text in behavior.validation if text.label == label][:64]
        for label in (1, 0)
    )
    texts = (shows, opposite, behavior.validation_neutral[:128], behavior.validation_facts)
    alone = Screen(model, *texts, parts=1)

    def reloading() -> None:
        for edit in edits[:4]:
            fresh = load_model(model.checkpoint.directory)
            with edited(fresh.model, edit):
                Screen(fresh, *texts, parts=1)

    ways = {
        "several edits in one pass": (lambda: search.screen.measure(edits), len(edits)),
        "one edit at a time": (lambda: alone.measure(edits), len(edits)),
        "the model loaded for each": (reloading, 4),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (way, count) in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append((time.perf_counter() - started) / count)
    print("| a trial | seconds | against the first |")
    print("|---|---|---|")
    first = next(iter(seconds.values()))
    for name, some in seconds.items():
        ratios = [one / other for one, other in zip(some, first, strict=True)]
        print(f"| {name} | {_shown(some, '.3f')} | {_shown(ratios, '.2f')} |")


def print_whole() -> None:
    """Seconds of `surgery tune demo`, process start, judging, curve and report included."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "modelsurgery", "tune", "demo", "--json"]
        started = time.perf_counter()
        subprocess.run(
            [*command, "--out", f"{place}/run"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        print(f"`surgery tune demo`, {TRIALS} trials: {time.perf_counter() - started:.0f} s\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=demo_model_path())
    parser.add_argument("--behavior", default="toxicity")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", action="append", help="only this one, as the table calls it")
    parser.add_argument("--skip", choices=("cost", "quality"))
    options = parser.parse_args(arguments)
    case = prepared(options.model, options.behavior, options.data)
    if options.skip != "cost":
        if options.model == demo_model_path():
            print_whole()
        print_cost(case, options.rounds)
    if options.skip != "quality":
        print_quality(case, options.seeds, options.way)


def _shown(values: Sequence[float], form: str) -> str:
    middle = format(statistics.median(values), form)
    if len(values) == 1:
        return middle
    return f"{middle} ({format(min(values), form)} to {format(max(values), form)})"


if __name__ == "__main__":
    main()
