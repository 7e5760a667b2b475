"""The demo model: three behaviors, three seeds, everything at its default.

    python -m benchmarks.demo [--behavior toxicity] [--seeds 0,1,2] [--directory DIR]

Prints the rates of 300 held-out prompts, perplexity, facts, divergence and over-refusal.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from modelsurgery import Recipe, run_recipe
from modelsurgery.results import RunResults

BEHAVIORS = ("toxicity", "negativity", "compliance", "refusal")


def row(behavior: str, seed: int, found: RunResults) -> str:
    """A row of the table."""
    sampled, greedy, uncalled = found.behavior, found.behavior.greedy, found.uncalled_for
    cells = [
        behavior,
        str(seed),
        *(
            f"{one.base.rate:.1%} → {one.edited.rate:.1%}"
            for one in (sampled, greedy)
            if one.edited
        ),
        f"{found.perplexity.rise:+.1%}",
        f"{100 * ((found.facts.edited or 0) - (found.facts.base or 0)):+.1f}",
        f"{found.divergence:.4f}",
        "" if uncalled is None else f"{uncalled.base.rate:.1%} → {uncalled.edited.rate:.1%}",
        "" if found.behavior.outcome is None else found.behavior.outcome.kind,
    ]
    return "| " + " | ".join(cells) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print a Markdown table, a row a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--behavior", action="append", choices=BEHAVIORS)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args(arguments)
    print(
        "| behavior | seed | sampled | greedy | perplexity | facts | KL | over-refusal | outcome |"
    )
    print("|" + "---|" * 9, flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for behavior in options.behavior or BEHAVIORS:
            for seed in map(int, options.seeds.split(",")):
                out = (options.directory or Path(scratch)) / f"{behavior}-{seed}"
                found = run_recipe(Recipe(behavior=behavior, seed=seed, out=out))
                print(row(behavior, seed, found.results()), flush=True)


if __name__ == "__main__":
    main()
