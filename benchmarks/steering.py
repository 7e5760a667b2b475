"""Which direction steers best? Every fit, rule, number of rows and window at equal damage.

    python -m benchmarks.steering [--model DIR --texts FILE | --behavior NAME] [--seeds N]

Each setting gets the largest strength whose loss on neutral validation text stays inside the
budget; the table gives selectivity there (nats per token; evaluation/screening.py defines it),
mean and range over seeds of the split. Nothing is generated and nothing held out is read.
"""

import argparse
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from modelsurgery import demo_model_path, extract_hidden_states, load_model
from modelsurgery.data.behaviors import BehaviorFile, describe_behavior, load_behavior
from modelsurgery.edit.probe import DirectionSource, Fit
from modelsurgery.edit.region import PAPER_ROWS
from modelsurgery.evaluation.judges import judge_for
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.probe_fitting import fit_probe_on_texts
from modelsurgery.search import Budget, Search, Setting, Trial, default_space
from modelsurgery.search.strength_schedule import FIRST_STRENGTH, corrected_strength

DIRECTIONS: tuple[tuple[Fit, DirectionSource], ...] = (
    ("adam", "W1"),
    ("adam", "W1-W0"),
    ("logistic", "W1-W0"),
    ("mean-difference", "mean-difference"),
)


ROWS = (0.01, 0.02, PAPER_ROWS)
ROUNDS = 6  # of correcting the strength


def strongest(search: Search, setting: Setting) -> Trial | None:
    """The strongest trial of a setting inside the budget that some corrections find."""
    trials: list[Trial] = []
    strength: float | None = FIRST_STRENGTH
    while strength is not None and len(trials) < ROUNDS:
        (effect,) = search.screen.measure([search.edit_of(setting, strength)])
        if not effect.is_finite:
            break
        trials.append(Trial(len(trials), setting, strength, effect))
        strength = corrected_strength(search.budget, trials)
    inside = [one for one in trials if search.budget.allows(one.effect)]
    return max(inside, key=lambda one: one.strength, default=None)


def candidates(
    model: LanguageModel, described: BehaviorFile, layer: int, seed: int, budget: float
) -> Iterator[tuple[Fit, float, Trial]]:
    """Fit, held-out AUROC of the probe, and every setting at equal damage."""
    is_demo = described.demo and model.checkpoint.directory == demo_model_path()
    behavior = load_behavior(described, is_demo=is_demo, seed=seed)
    texts = [model.render(text) for text in (*behavior.train, *behavior.test)]
    features = extract_hidden_states(model, texts, [layer]).by_layer[layer]
    count = model.layer_count
    windows = dict.fromkeys([None, (count // 2 + 1, count), (count - (count - 1) // 4, count)])
    for fit, rule in DIRECTIONS:
        probe = fit_probe_on_texts(
            features, behavior.train, behavior.test, layer=layer, fit=fit, seed=seed
        )
        assert probe.metrics is not None
        space = default_space(count, (layer,), (rule,))
        limits = Budget(budget, None)
        search = Search(model, behavior, judge_for(behavior), [probe], space, limits)
        for rows, window in itertools.product(ROWS, windows):
            found = strongest(search, Setting(layer, rule, rows, window))
            if found is not None:
                yield fit, probe.metrics.auroc, found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=demo_model_path())
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--behavior", default="toxicity")
    parser.add_argument("--layer", type=int)
    parser.add_argument("--budget", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    model = load_model(options.model)
    described = describe_behavior(options.behavior)
    if options.texts:
        described = BehaviorFile(name=options.texts.stem, texts=options.texts)
    layer = options.layer or model.layer_count
    table = defaultdict(list)
    for seed in range(options.seeds):
        for fit, auroc, one in candidates(model, described, layer, seed, options.budget):
            setting = one.setting
            window = "all" if setting.window is None else "{}-{}".format(*setting.window)
            table[fit, setting.rule, f"{setting.rows:.2%}", window].append((one, auroc))
    print(f"{described.name} on {options.model.name}, probe layer {layer}, budget "
          f"+{options.budget:.0%} perplexity, {options.seeds} seeds\n")  # fmt: skip
    print("| fit | direction | AUROC | rows | layers | strength | selectivity (range) |")
    print("|---|---|---|---|---|---|---|")
    order = sorted(
        table.items(), key=lambda item: -_mean([c.effect.selectivity for c, _ in item[1]])
    )
    for (fit, rule, rows, window), found in order:
        values = [candidate.effect.selectivity for candidate, _ in found]
        strength = _mean([candidate.strength for candidate, _ in found])
        auroc = _mean([area for _, area in found])
        print(f"| {fit} | {rule} | {auroc:.3f} | {rows} | {window} | {strength:.3g} | "
              f"{_mean(values):.3f} ({min(values):.3f} to {max(values):.3f}) |")  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
