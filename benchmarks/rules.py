"""The rules side by side: what each does to a behavior at the same divergence.

    python -m benchmarks.rules MODEL --data DIR [--behavior toxicity] [--direction away]
        [--divergences 0.01,0.02,0.05] [--rules ...] [--seeds 0] [--prompts 150]
        [--task lambada] [--task mmlu] [--store FILE]

Each rule makes its edit from the behavior's texts (200 of each kind, or `--texts`); its strength is
brought to the same KL(base ‖ edited) on neutral validation text, within a tenth. Then, on data that
nothing was chosen on: the rise of the loss on texts that show the behavior less that on their
opposites (selectivity, nats a token), perplexity and divergence of neutral text, rates over
prompts, greedy and sampled, with Wilson intervals and the p-value of a paired sign test, and the
agreement of two judges (κ). Everything is printed as Markdown. Generations are kept in a store
and finished rows beside it, so that the same command goes on after an interruption.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from modelsurgery import Edit, LanguageModel, extract_hidden_states, load_model
from modelsurgery.data.behaviors import Behavior, describe_behavior, load_behavior
from modelsurgery.edit.probe import Probe
from modelsurgery.edit.region import PAPER_ROWS
from modelsurgery.evaluation.capability import TaskResult, measure_capability
from modelsurgery.evaluation.generation import TransformersGenerator
from modelsurgery.evaluation.judges import Judge, judge_for
from modelsurgery.evaluation.own_answers import own_answers
from modelsurgery.evaluation.protocol import decodings_of, measure_prompt_set
from modelsurgery.evaluation.screening import Screen
from modelsurgery.evaluation.store import Store
from modelsurgery.model.activations.ledger import Ledger
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.probe_fitting import fit_probe_on_texts
from modelsurgery.results import Rate
from modelsurgery.rivals.matching import match_divergence
from modelsurgery.rules.proposal import RowProposal
from modelsurgery.rules.rule_names import SEVERAL_STEPS
from modelsurgery.search.fitting import (
    RULE_TEXTS,
    FittedRule,
    first_tokens,
    fit_rule,
    some_of_each,
)

# Name in the table: rule, what the paper's takes from the probe, share of the rows.
RULES: dict[str, tuple[str, str | None, float]] = {
    "paper W1": ("paper", "W1", PAPER_ROWS),
    "paper mean difference": ("paper", "mean-difference", PAPER_ROWS),
    "least squares": ("least-squares", None, PAPER_ROWS),
    "natural gradient": ("natural-gradient", None, PAPER_ROWS),
    "natural gradient, 3 steps": ("natural-gradient", None, PAPER_ROWS),
    "natural gradient, plain": ("natural-gradient", None, PAPER_ROWS),
    "natural gradient 1 %": ("natural-gradient", None, 0.01),
}
TOKENS = 6000  # of neutral text that strengths are chosen on, and that edits are measured on
TEST_TEXTS = 100  # texts of each label that selectivity is measured on
FIRST = {"paper": 1.0, "least-squares": 0.3, "natural-gradient": 0.4}


# Behavior, direction, rule, divergence, seed, sets of prompts.
Key = tuple[str, str, str, float, int, str]


@dataclass(frozen=True)
class MeasuredRate:
    """How often a behavior shows on a set of prompts."""

    name: str
    base: Rate
    edited: Rate
    p_value: float


@dataclass(frozen=True)
class Measured:
    """One edit, measured on held-out data."""

    behavior: str
    direction: str
    rule: str
    target: float
    seed: int
    sets: str
    strength: float
    selectivity: float
    perplexity_rise: float
    divergence: float
    rates: tuple[MeasuredRate, ...]
    agreement: float | None
    tasks: dict[str, tuple[float, float]]  # of the base, of the edited model

    @property
    def key(self) -> Key:
        """What tells it from the others."""
        return self.behavior, self.direction, self.rule, self.target, self.seed, self.sets


def at_divergence(edit: Edit, screen: Screen, target: float) -> Edit:
    """The edit at a strength whose divergence is a target's, within a tenth.

    Raises:
        ValueError: none was found.
    """

    def divergence(strength: float) -> float:
        return screen.measure([edit.scaled(strength)])[0].divergence

    found = match_divergence(divergence, target)
    if not found.is_met:
        raise ValueError(f"no strength has a divergence of {target}")
    return edit.scaled(found.strength)


def probe_of(model: LanguageModel, behavior: Behavior, seed: int) -> Probe:
    """The paper's probe: the last layer, Adam, all texts that the rules read."""
    fit = some_of_each(behavior.train, 10 * RULE_TEXTS)
    test = some_of_each(behavior.test, RULE_TEXTS)
    texts = [model.render(text) for text in (*fit, *test)]
    layer = model.layer_count
    states = extract_hidden_states(model, texts, [layer]).by_layer[layer]
    return fit_probe_on_texts(states, fit, test, layer=layer, seed=seed)


def fitted_of(
    model: LanguageModel,
    behavior: Behavior,
    name: str,
    probe: Probe | None,
    sign: int,
    seed: int,
    ledger: Ledger,
    texts: int,
) -> FittedRule:
    """A rule of the table that has read the texts."""
    rule, source, _ = RULES[name]
    read = some_of_each(behavior.train, texts)
    return fit_rule(
        Passes(model, ledger),
        rule,  # type: ignore[arg-type]
        read,
        behavior.validation_neutral,
        own=own_answers(model, read),
        probe=probe,
        direction_source=source,  # type: ignore[arg-type]
        sign=sign,
        seed=seed,
    )


def rates_of(
    generator: TransformersGenerator,
    edit: Edit,
    behavior: Behavior,
    judges: Sequence[Judge],
    store: Store,
    seed: int,
    sets: Sequence[str] | None,
) -> tuple[tuple[MeasuredRate, ...], float | None]:
    """Rates on prompt sets, greedy and sampled, and the agreement of the first two judges."""
    rows, agreement = [], None
    for prompts in behavior.prompt_sets:
        if sets is not None and prompts.name not in sets:
            continue
        for samples, how in ((0, "greedy"), (1, "sampled")):
            decodings = decodings_of(prompts, samples, seed)
            found = measure_prompt_set(generator, [edit], prompts, judges, decodings, store=store)
            whole = found.whole
            assert whole.edited is not None
            assert whole.change is not None
            rows.append(
                MeasuredRate(
                    f"{prompts.name}, {how}", whole.base, whole.edited, whole.change.p_value
                )
            )
            for one in found.agreement.values():
                agreement = one.kappa
    return tuple(rows), agreement


def tasks_of(
    model: LanguageModel, edit: Edit, options: argparse.Namespace
) -> dict[str, tuple[float, float]]:
    """Scores of capability tasks, of the base and of the edited model."""
    found = measure_capability(
        model, [edit], options.task, data=options.data, limit=options.task_limit
    )
    scores = {}
    for name, one in found.items():
        assert isinstance(one, TaskResult)
        assert one.edited is not None
        scores[name] = (one.base.rate, one.edited.rate)
    return scores


def screens_of(model: LanguageModel, behavior: Behavior) -> tuple[Screen, Screen]:
    """What strengths are chosen on, and what an edit is measured on."""
    validation = Screen(model, (), (), first_tokens(model, behavior.validation_neutral, TOKENS))
    texts = some_of_each(behavior.test, TEST_TEXTS)
    shows, opposite = (
        [model.render(text) for text in texts if text.label == label] for label in (1, 0)
    )
    return validation, Screen(
        model, shows, opposite, first_tokens(model, behavior.test_neutral, TOKENS)
    )


def measure(options: argparse.Namespace) -> list[Measured]:
    """All edits of the table; those in the file of rows are not measured again."""
    kept = read_rows(options.store.with_suffix(".jsonl"))
    targets = [float(one) for one in options.divergences.split(",")]
    sets = ",".join(options.set or ["all"])
    wanted = [
        (options.behavior, options.direction, rule, target, seed, sets)
        for seed in map(int, options.seeds.split(","))
        for rule in options.rules.split(",")
        for target in targets
    ]
    if any(key not in kept for key in wanted):
        model = load_model(options.model)
        for seed in dict.fromkeys(key[4] for key in wanted if key not in kept):
            todo = [key for key in wanted if key[4] == seed and key not in kept]
            for one in measure_seed(model, options, seed, todo):
                print(line_of(one), flush=True)
                kept[one.key] = one
                with options.store.with_suffix(".jsonl").open("a") as file:
                    file.write(json.dumps(asdict(one), default=dict) + "\n")
    return [kept[key] for key in wanted if key in kept]


def measure_seed(
    model: LanguageModel, options: argparse.Namespace, seed: int, todo: Sequence[Key]
) -> Iterator[Measured]:
    """The edits of one seed, as they come."""
    sign = -1 if options.direction == "toward" else 1
    described = describe_behavior(options.behavior)
    behavior = load_behavior(described, data=options.data, seed=seed, prompt_count=options.prompts)
    judges = [judge_for(behavior, spec, seed=seed) for spec in options.judge or [None]]
    validation, test = screens_of(model, behavior)
    names = list(dict.fromkeys(key[2] for key in todo))
    probe = None
    if any(RULES[name][0] == "paper" for name in names):
        probe = probe_of(model, behavior, seed)
    ledger = Ledger(options.store.with_suffix(".ledger"))
    with Store(options.store) as store:
        generator = TransformersGenerator(model, store=store)
        for name in names:
            rule, _, rows = RULES[name]
            started = time.monotonic()
            fitted = fitted_of(model, behavior, name, probe, sign, seed, ledger, options.texts)
            # Plain: what neutral text itself loses to first order is not counted.
            is_kept = fitted.keeping is not None and not name.endswith("plain")
            proposal = fitted.keeping() if is_kept and fitted.keeping else fitted.propose(None)

            def make(proposal: RowProposal, rows: float = rows, first: float = FIRST[rule]) -> Edit:
                return proposal.edit(rows, strength=sign * first)

            edit = make(proposal)
            print(f"{name}, seed {seed}: {time.monotonic() - started:.0f} s", flush=True)
            for key in todo:
                if key[2] != name:
                    continue
                try:
                    edit = at_divergence(make(proposal), validation, key[3])
                    if name.endswith("steps"):
                        climbed = fitted.climb(make, edit, SEVERAL_STEPS, is_kept=is_kept)
                        edit = at_divergence(climbed, validation, key[3])
                except ValueError as error:
                    print(f"{name}: {error}", flush=True)
                    continue
                (effect,) = test.measure([edit])
                rates, agreement = rates_of(
                    generator, edit, behavior, judges, store, seed, options.set
                )
                yield Measured(
                    *key,
                    edit.strength,
                    effect.selectivity,
                    math.expm1(effect.clean),
                    effect.divergence,
                    rates,
                    agreement,
                    tasks_of(model, edit, options) if options.task else {},
                )


def read_rows(path: Path) -> dict[Key, Measured]:
    """Finished rows."""
    if not path.exists():
        return {}
    found = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        rates = tuple(
            MeasuredRate(one["name"], Rate(**one["base"]), Rate(**one["edited"]), one["p_value"])
            for one in row.pop("rates")
        )
        tasks = {name: (base, edited) for name, (base, edited) in row.pop("tasks").items()}
        one = Measured(rates=rates, tasks=tasks, **row)
        found[one.key] = one
    return found


def line_of(one: Measured) -> str:
    """A row of the table."""
    cells = [
        one.rule,
        f"{one.target:g}",
        str(one.seed),
        f"{one.strength:.3g}",
        f"{one.selectivity:+.3f}",
        f"{one.perplexity_rise:+.2%}",
        f"{one.divergence:.4f}",
    ]
    for rate in one.rates:
        low, high = 100 * rate.edited.low, 100 * rate.edited.high
        shown = f"{rate.edited.rate:.1%} ({low:.0f}-{high:.0f})"
        cells.append(f"{rate.base.rate:.1%} → {shown}, p {rate.p_value:.2g}")
    cells += [f"{base:.1%} → {edited:.1%}" for base, edited in one.tasks.values()]
    cells.append("" if one.agreement is None else f"{one.agreement:.2f}")
    return "| " + " | ".join(cells) + " |"


def table_of(found: Sequence[Measured]) -> str:
    """The table in Markdown."""
    first = max(found, key=lambda one: len(one.tasks))
    heads = ["rule", "KL", "seed", "strength", "selectivity", "perplexity", "held-out KL"]
    heads += [rate.name for rate in first.rates] + list(first.tasks) + ["κ"]
    rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*rows, *map(line_of, found)])


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--behavior", default="toxicity")
    parser.add_argument("--direction", default="away", choices=("away", "toward"))
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--divergences", default="0.01,0.02,0.05")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--prompts", type=int, default=150)
    parser.add_argument("--texts", type=int, default=RULE_TEXTS, help="of each kind, at most")
    parser.add_argument("--set", action="append", help="prompt set; else all")
    parser.add_argument("--judge", action="append")
    parser.add_argument("--task", action="append", help="capability task")
    parser.add_argument("--task-limit", type=int, default=200)
    parser.add_argument("--store", type=Path, default=Path("surgery-runs/rules.sqlite"))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    options = parser().parse_args(arguments)
    options.store.parent.mkdir(parents=True, exist_ok=True)
    found = measure(options)
    print(f"\n{options.behavior}, {options.direction}, model {Path(options.model).name}\n")
    print(table_of(found))


if __name__ == "__main__":
    main()
