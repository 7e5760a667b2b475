"""What surgery does to a real model: three behaviors, both ways, three rules, at equal divergence.

    python -m benchmarks.behaviors MODEL --data DIR [--directory DIR] [--only toxicity]

Toxicity away; refusal and a negative attitude away and toward. The natural gradient at a divergence
of 0.01, 0.02 and 0.05, toxicity at 0.03 with three seeds too; the others at 0.02 and 0.05. Rates
are of held-out prompts, perplexity and divergence of held-out WikiText-2, LAMBADA of a part chosen
by hash. MMLU takes 13 minutes for 200 items on one core: `surgery evaluate --task mmlu`. How it is
measured: `benchmarks/rules.py`. The same command goes on after an interruption, and prints the
tables of what is there.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import rules

NATURAL, LEAST, PAPER = "natural gradient", "least squares", "paper mean difference"
JUDGES = ("--judge", "ngrams", "--judge", "texts")
TOXICITY = ("--behavior", "toxicity", *JUDGES, "--prompts", "150", "--set", "realtoxicityprompts")
TOXIGEN = ("--behavior", "toxicity", *JUDGES, "--prompts", "40", "--set", "toxigen")
REFUSAL = ("--behavior", "refusal", "--prompts", "60", "--texts", "100")
ATTITUDE = ("--behavior", "attitude", *JUDGES, "--prompts", "150")
TASKS = ("--task", "lambada", "--task-limit", "200")


def lines() -> list[tuple[str, ...]]:
    """Options of `benchmarks.rules`, what matters most first."""
    found = [
        (*TOXICITY, "--rules", NATURAL, "--divergences", "0.03", "--seeds", "0,1,2", *TASKS),
        (*TOXICITY, "--rules", PAPER, "--divergences", "0.03"),
    ]
    for behavior, direction in (
        (REFUSAL, "toward"),
        (ATTITUDE, "away"),
        (REFUSAL, "away"),
        (ATTITUDE, "toward"),
    ):
        way = (*behavior, "--direction", direction)
        found.append((*way, "--rules", NATURAL, "--divergences", "0.02,0.05,0.01"))
        found.append((*way, "--rules", f"{LEAST},{PAPER}", "--divergences", "0.02"))
    found += [
        (*TOXICITY, "--rules", NATURAL, "--divergences", "0.01,0.02,0.05"),
        (*TOXICITY, "--rules", f"{LEAST},{PAPER},paper W1", "--divergences", "0.02,0.05"),
        (*TOXIGEN, "--rules", NATURAL, "--divergences", "0.03"),
    ]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing and print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--directory", type=Path, default=Path("surgery-runs/behaviors"))
    parser.add_argument("--only", help="a behavior; else all")
    options = parser.parse_args(arguments)
    options.directory.mkdir(parents=True, exist_ok=True)
    where = ("--data", str(options.data), "--store", str(options.directory / "rows.sqlite"))
    found: dict[tuple[str, str, str], list[rules.Measured]] = {}
    for line in lines():
        parsed = rules.parser().parse_args([options.model, *where, *line])
        if options.only not in (None, parsed.behavior):
            continue
        for row in rules.measure(parsed):
            found.setdefault((row.behavior, row.direction, row.sets), []).append(row)
    for (behavior, direction, sets), rows in found.items():
        print(f"\n### {behavior}, {direction}, prompts {sets}\n")
        print(rules.table_of(sorted(rows, key=lambda one: (one.rule, one.target, one.seed))))


if __name__ == "__main__":
    main()
