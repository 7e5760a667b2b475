"""The rules side by side: what each does to a behavior at the same divergence.

    python -m benchmarks.rules MODEL --data DIR [--behavior toxicity] [--direction away]
        [--divergences 0.01,0.02,0.05] [--rules ...] [--seeds 0] [--prompts 150] [--store FILE]

Each rule makes its edit from the behavior's texts (100 of each label at most); its strength is
brought to the same KL(base ‖ edited) on neutral tuning text, within a tenth. Then, on data that
nothing was chosen on: the rise of the loss on texts that show the behavior less that on their
opposites (selectivity, nats a token), perplexity and divergence of neutral text, and rates over
prompts, greedy and sampled, with Wilson intervals and the p-value of a paired sign test. The last
table says how far two judges agree. Everything is printed as Markdown; generations are kept in a
store, so that the same command goes on after an interruption.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelsurgery import Edit, LanguageModel, extract_hidden_states, load_model
from modelsurgery.data.behaviors import Behavior, describe_behavior, load_behavior
from modelsurgery.edit.probe import Probe
from modelsurgery.edit.region import PAPER_ROWS
from modelsurgery.evaluation.generation import TransformersGenerator
from modelsurgery.evaluation.judges import Judge, judge_for
from modelsurgery.evaluation.protocol import decodings_of, measure_prompt_set
from modelsurgery.evaluation.screening import Effect, Screen
from modelsurgery.evaluation.statistics import Rate
from modelsurgery.evaluation.store import Store
from modelsurgery.model.activations.ledger import Ledger
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.probe_fitting import fit_probe_on_texts
from modelsurgery.rules.proposal import RowProposal
from modelsurgery.search.fitting import RULE_TEXTS, first_tokens, fit_rule, some_of_each

# Name in the table: rule, what the paper's takes from the probe, share of the rows.
RULES: dict[str, tuple[str, str | None, float]] = {
    "paper W1": ("paper", "W1", PAPER_ROWS),
    "paper mean difference": ("paper", "mean-difference", PAPER_ROWS),
    "least squares": ("least-squares", None, PAPER_ROWS),
    "natural gradient": ("natural-gradient", None, PAPER_ROWS),
    "natural gradient 1 %": ("natural-gradient", None, 0.01),
}
ROUNDS = 8  # of correcting a strength
NEAR = 0.1  # share by which a divergence may miss its target
HELD_OUT = 100  # texts of each label that selectivity is measured on
FIRST = {"paper": 1.0, "least-squares": 0.3, "natural-gradient": 0.4}


@dataclass(frozen=True)
class Measured:
    """One edit, measured on held-out data."""

    name: str
    divergence: float
    seed: int
    strength: float
    effect: Effect
    rates: tuple[tuple[str, Rate, Rate, float], ...]  # set and decoding, base, edited, p
    agreement: float | None


def at_divergence(edit: Edit, screen: Screen, target: float) -> Edit | None:
    """The edit at a strength whose divergence is a target's; None if none was found."""
    strength, low, high = 1.0, 0.0, math.inf
    for _ in range(ROUNDS):
        (effect,) = screen.measure([edit.scaled(strength)])
        found = effect.divergence if effect.is_finite else math.inf
        if abs(found / target - 1) <= NEAR:
            return edit.scaled(strength)
        low, high = (strength, high) if found < target else (low, strength)
        factor = min(4.0, max(0.25, math.sqrt(target / max(found, 1e-9))))
        wanted = strength * factor
        if high < math.inf and low > 0 and not low < wanted < high:
            wanted = math.sqrt(low * high)
        strength = wanted
    return None


def probe_of(model: LanguageModel, behavior: Behavior, seed: int) -> Probe:
    """The paper's probe: the last layer, Adam, all texts that the rules read."""
    fit = some_of_each(behavior.fit, 10 * RULE_TEXTS)
    held_out = some_of_each(behavior.held_out, RULE_TEXTS)
    texts = [model.written(text) for text in (*fit, *held_out)]
    layer = model.layer_count
    states = extract_hidden_states(model, texts, [layer]).by_layer[layer]
    return fit_probe_on_texts(states, fit, held_out, layer=layer, seed=seed)


def proposal_of(
    model: LanguageModel,
    behavior: Behavior,
    name: str,
    probe: Probe | None,
    sign: int,
    seed: int,
    ledger: Ledger,
) -> RowProposal:
    """What a rule of the table proposes."""
    rule, source, _ = RULES[name]
    fitted = fit_rule(
        Passes(model, ledger),
        rule,  # type: ignore[arg-type]
        some_of_each(behavior.fit, RULE_TEXTS),
        behavior.tuning_neutral,
        probe=probe,
        direction_source=source,  # type: ignore[arg-type]
        sign=sign,
        seed=seed,
    )
    return fitted.propose(None)


def rates_of(
    generator: TransformersGenerator,
    edit: Edit,
    behavior: Behavior,
    judges: Sequence[Judge],
    store: Store,
    seed: int,
    sets: Sequence[str] | None,
) -> tuple[list[tuple[str, Rate, Rate, float]], float | None]:
    """Rates on all prompt sets, greedy and sampled, and the agreement of the first two judges."""
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
            rows.append((f"{prompts.name}, {how}", whole.base, whole.edited, whole.change.p_value))
            for one in found.agreement.values():
                agreement = one.kappa
    return rows, agreement


def measure(options: argparse.Namespace) -> list[Measured]:
    """All edits of the table."""
    model = load_model(options.model)
    sign = -1 if options.direction == "toward" else 1
    found: list[Measured] = []
    ledger = Ledger(options.store.with_suffix(".ledger"))
    for seed in map(int, options.seeds.split(",")):
        described = describe_behavior(options.behavior)
        behavior = load_behavior(
            described, data=options.data, seed=seed, prompt_count=options.prompts
        )
        judges = [judge_for(behavior, spec, seed=seed) for spec in options.judge or [None]]
        tuning = Screen(model, (), (), first_tokens(model, behavior.tuning_neutral))
        held_out = Screen(
            model,
            *(
                [model.written(text) for text in some_of_each(behavior.held_out, HELD_OUT)
                 if text.label == label]
                for label in (1, 0)
            ),
            first_tokens(model, behavior.neutral, 6000),
        )  # fmt: skip
        names = options.rules.split(",")
        probe = None
        if any(RULES[name][0] == "paper" for name in names):
            probe = probe_of(model, behavior, seed)
        with Store(options.store) as store:
            generator = TransformersGenerator(model, store=store)
            for name in names:
                started = time.monotonic()
                proposal = proposal_of(model, behavior, name, probe, sign, seed, ledger)
                print(f"{name}, seed {seed}: {time.monotonic() - started:.0f} s", flush=True)
                rule, _, rows = RULES[name]
                edit = proposal.edit(rows, strength=sign * FIRST[rule])
                for target in map(float, options.divergences.split(",")):
                    scaled = at_divergence(edit, tuning, target)
                    if scaled is None:
                        print(f"{name}: no strength has a divergence of {target}", flush=True)
                        continue
                    edit = scaled
                    (effect,) = held_out.measure([scaled])
                    rates, agreement = rates_of(
                        generator, scaled, behavior, judges, store, seed, options.set
                    )
                    one = Measured(
                        name, target, seed, scaled.strength, effect, tuple(rates), agreement
                    )
                    print(line_of(one), flush=True)
                    found.append(one)
    return found


def line_of(one: Measured) -> str:
    """A row of the table."""
    effect = one.effect
    cells = [
        one.name,
        f"{one.divergence:g}",
        str(one.seed),
        f"{one.strength:.3g}",
        f"{effect.selectivity:+.3f}",
        f"{math.expm1(effect.clean):+.2%}",
        f"{effect.divergence:.4f}",
    ]
    for _, base, edited, p in one.rates:
        shown = f"{edited.rate:.1%} ({100 * edited.low:.0f}-{100 * edited.high:.0f})"
        cells.append(f"{base.rate:.1%} → {shown}, p {p:.2g}")
    cells.append("" if one.agreement is None else f"{one.agreement:.2f}")
    return "| " + " | ".join(cells) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--behavior", default="toxicity")
    parser.add_argument("--direction", default="away", choices=("away", "toward"))
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--divergences", default="0.01,0.02,0.05")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--prompts", type=int, default=150)
    parser.add_argument("--set", action="append", help="prompt set; else all")
    parser.add_argument("--judge", action="append")
    parser.add_argument("--store", type=Path, default=Path("surgery-runs/rules.sqlite"))
    options = parser.parse_args(arguments)
    options.store.parent.mkdir(parents=True, exist_ok=True)
    found = measure(options)
    sets = [name for name, *_ in found[0].rates] if found else []
    print(f"\n{options.behavior}, {options.direction}, model {Path(options.model).name}\n")
    heads = [
        "rule",
        "KL",
        "seed",
        "strength",
        "selectivity",
        "perplexity",
        "held-out KL",
        *sets,
        "κ",
    ]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for one in found:
        print(line_of(one))


if __name__ == "__main__":
    main()
