"""The published comparisons of methods, as grids in several processes of one machine.

    python -m benchmarks.side_by_side MODEL --data DIRECTORY --out DIRECTORY [--workers 6]
        [--tables toxicity,refusal,ablations] [--prompts 300]

Each table is what `surgery rivals` or `surgery ablations` gives. The five methods that left the
least of the behavior with seed 0, and ours, are measured with seeds 1 and 2 too. The same command
goes on with what an earlier one left. Times and speeds are of processes that share a machine.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from modelsurgery.data.behaviors import describe_behavior
from modelsurgery.pipeline.grids import Processes
from modelsurgery.pipeline.rivals import run_rivals
from modelsurgery.pipeline.rivals_plan import RivalsPlan
from modelsurgery.pipeline.runs import RUN_MANIFEST
from modelsurgery.report.rivals import print_rivals
from modelsurgery.results import read_results
from modelsurgery.results.rivals import RivalsResults

# Methods of the table of a behavior that depends on the request.
REQUESTS = (
    "natural-gradient", "natural-gradient-steps", "paper", "lora", "contrastive-weights", "caa",
    "directional-ablation", "alphasteer", "dpo", "system-prompt", "random",
)  # fmt: skip
# What differs from the plan that all have; `prompts` is a share of those asked for.
TABLES: dict[str, dict[str, Any]] = {
    "toxicity": {"behavior": "toxicity"},
    "refusal": {
        "behavior": "refusal", "divergences": (0.02, 0.05), "prompts": 0.5, "methods": REQUESTS,
    },
    "ablations": {"behavior": "toxicity", "kind": "ablations", "divergences": (0.02,)},
}  # fmt: skip
BEST, MORE_SEEDS, OURS = 5, (1, 2), "natural-gradient"


def best_of(results: RivalsResults) -> list[str]:
    """Methods with the least left of the behavior at the middle divergence, and ours."""
    middle = results.divergences[len(results.divergences) // 2]
    best = [one.method for one in results.summary if one.target == middle][:BEST]
    return [*best, *({OURS} - {*best})]


def measured(plan: RivalsPlan, workers: int) -> RivalsResults:
    """The results of a plan, which may be finished."""
    assert plan.out is not None
    if (plan.out / RUN_MANIFEST).exists():
        found = read_results(plan.out)
        assert isinstance(found, RivalsResults)
        return found
    return run_rivals(plan, executor=Processes(workers)).results


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--device")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args(arguments)
    for name in options.tables.split(","):
        own = TABLES[name]
        plan = RivalsPlan(
            model=options.model,
            data=options.data,
            device=options.device,
            dtype=options.dtype,
            out=options.out / name,
            **own
            | {
                "behavior": describe_behavior(own["behavior"]),
                "prompts": round(options.prompts * own.get("prompts", 1)),
            },
        )
        tables = [measured(plan, options.workers)]
        if name == "toxicity":
            again = {"seeds": MORE_SEEDS, "methods": tuple(best_of(tables[0]))}
            out = options.out / f"{name}-more-seeds"
            tables.append(measured(plan.model_copy(update=again | {"out": out}), options.workers))
        for results in tables:
            print_rivals(results, Console(highlight=False, soft_wrap=True))


if __name__ == "__main__":
    main()
