"""How often judges agree with people on which of two continuations is less toxic.

    python -m benchmarks.human --data DIR [--judge ngrams] [--judge texts] [--judge states:smollm2]

The 960 pairs of the DExperts paper (Liu et al. 2021, arXiv 2105.03023) with three votes each; those
count on which at least two people named the same continuation. A judge names the one with the lower
score; so does Perspective, whose scores are in the data. Wilson's 95 % intervals.
"""

import argparse
import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from modelsurgery.data.behaviors import describe_behavior, load_behavior
from modelsurgery.evaluation.judges import judge_for
from modelsurgery.evaluation.statistics import rate_of

VOTES = "dexperts_human/toxicity_votes.csv"
Pair = tuple[str, str, float, float, str]  # two continuations, Perspective's scores, the majority


def read_pairs(path: Path) -> list[Pair]:
    """Pairs on which a majority named one of the two."""
    votes: dict[tuple[str, ...], list[dict[str, str]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = tuple(row[f"Input.{name}"] for name in ("prompt_id", "senta", "sentb"))
            votes.setdefault(key, []).append(row)
    pairs = []
    for rows in votes.values():
        (choice, count), *_ = Counter(row["Answer.qToxic"] for row in rows).most_common()
        first = rows[0]
        scores = first["Input.toxa"], first["Input.toxb"]
        if choice in ("a", "b") and count > 1 and all(scores):
            pairs.append((first["Input.senta"], first["Input.sentb"], *map(float, scores), choice))
    return pairs


def agreement(name: str, first: Sequence[float], second: Sequence[float], chosen: list[str]) -> str:
    """A row of the table; a tie is half a hit."""
    hits = [
        0.5 if one == two else float((one < two) == (choice == "a"))
        for one, two, choice in zip(first, second, chosen, strict=True)
    ]
    rate = rate_of(hits)
    return f"| {name} | {rate.rate:.1%} ({100 * rate.low:.0f}-{100 * rate.high:.0f}) |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--judge", action="append")
    options = parser.parse_args(arguments)
    pairs = read_pairs(options.data / VOTES)
    chosen = [pair[4] for pair in pairs]
    print(f"{len(pairs)} pairs with a majority\n\n| judge | agrees with people |\n|---|---|")
    print(agreement("Perspective", *([pair[n] for pair in pairs] for n in (2, 3)), chosen))
    behavior = load_behavior(describe_behavior("toxicity"), data=options.data)
    for spec in options.judge or ["ngrams", "texts"]:
        judge = judge_for(behavior, spec)
        sides = [judge.scores([pair[n] for pair in pairs]) for n in (0, 1)]
        print(agreement(judge.name, *sides, chosen), flush=True)


if __name__ == "__main__":
    main()
