"""The published comparisons of methods, by one command, on several processes of one machine.

    python -m benchmarks.side_by_side MODEL --data DIRECTORY --out DIRECTORY [--workers 6]
        [--minutes 60] [--tables toxicity,refusal,ablations] [--prompts 300]

Each table is what `surgery rivals` or `surgery ablations` gives with all its methods; here the
methods are dealt out to processes, whose rows are put together again. The five methods that left
the least of the behavior with seed 0 are measured with seeds 1 and 2 too. With --minutes, what is
not done by then is left out, and said. Times and speeds are of processes that share a machine.
"""

import argparse
import heapq
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelsurgery.files.atomic import write_text
from modelsurgery.pipeline.rivals import note_of
from modelsurgery.report.html import write_report
from modelsurgery.results.rivals import RivalRow, RivalsResults
from modelsurgery.rivals import methods_of
from modelsurgery.rivals.summary import summarize

# Methods that choose among many variants, or train: each has a process of its own.
SLOW = (
    "heretic", "leace", "directional-ablation", "biprojection", "dpo", "contrastive-weights",
    "contrastive-decoding", "alphasteer", "profs", "natural-gradient-steps",
)  # fmt: skip
# Methods of the table of a behavior that depends on the request.
REQUESTS = (
    "natural-gradient", "natural-gradient-steps", "paper", "lora", "contrastive-weights", "caa",
    "directional-ablation", "alphasteer", "dpo", "system-prompt", "random",
)  # fmt: skip
BEST, MORE_SEEDS = 5, (1, 2)
OURS = "natural-gradient"


@dataclass(frozen=True)
class Table:
    """A comparison.

    Attributes:
        name: of its directory.
        kind: the command.
        behavior: what is changed.
        kl: divergences, nats per token.
        prompts: held-out prompts, as a share of those asked for.
        together: methods in one process.
        methods: names of methods; none takes all.
    """

    name: str
    kind: str
    behavior: str
    kl: tuple[float, ...]
    prompts: float = 1.0
    together: int = 3
    methods: tuple[str, ...] = ()

    def groups(self) -> Iterator[tuple[str, ...]]:
        """Methods that are measured by one process each, the slow ones first."""
        names = self.methods or [*methods_of(self.kind)]
        yield from ((name,) for name in names if name in SLOW)
        others = [name for name in names if name not in SLOW]
        for start in range(0, len(others), self.together):
            yield tuple(others[start : start + self.together])


TABLES = {
    table.name: table
    for table in (
        Table("toxicity", "rivals", "toxicity", (0.01, 0.02, 0.05)),
        Table("refusal", "rivals", "refusal", (0.02, 0.05), prompts=0.5, methods=REQUESTS),
        Table("ablations", "ablations", "toxicity", (0.02,), together=6),
    )
}


@dataclass(order=True, frozen=True)
class Job:
    """Some methods of a table with one seed; the smallest rank goes first."""

    rank: int
    table: Table = field(compare=False)
    seed: int
    methods: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its directory and its log."""
        return f"{self.table.name}-{self.seed}-{self.methods[0]}"


class Jobs:
    """What is still to do; more comes when all of a table's first seed is done."""

    def __init__(self, tables: Sequence[Table], parts: Path) -> None:
        """Deal out the methods of tables."""
        self._parts, self._lock = parts, threading.Lock()
        self._waiting = [
            Job(rank, table, 0, methods)
            for rank, table in enumerate(tables)
            for methods in table.groups()
        ]
        heapq.heapify(self._waiting)
        self._open = {job for job in self._waiting if job.table.name == "toxicity"}

    def take(self) -> Job | None:
        """The next one; None once nothing is left."""
        with self._lock:
            return heapq.heappop(self._waiting) if self._waiting else None

    def done(self, job: Job) -> None:
        """Mark one as done."""
        with self._lock:
            if job not in self._open:
                return
            self._open.discard(job)
            if not self._open:
                for method in best_of(rows_in(self._parts, job.table), job.table):
                    for seed in MORE_SEEDS:
                        heapq.heappush(self._waiting, Job(-1, job.table, seed, (method,)))


def best_of(rows: Sequence[RivalRow], table: Table) -> list[str]:
    """Methods with the least left of the behavior at the middle divergence, and ours."""
    middle = table.kl[len(table.kl) // 2]
    rated = {
        row.method: row.greedy.edited.rate + row.sampled.edited.rate
        for row in rows
        if row.target == middle and row.greedy.edited and row.sampled.edited
    }
    best = sorted(rated, key=rated.__getitem__)[:BEST]
    return [*best, *({OURS} - {*best})]


def rows_in(parts: Path, table: Table) -> list[RivalRow]:
    """All rows of a table that were measured."""
    paths = sorted(parts.glob(f"{table.name}-*/rows/*.json"))
    return [RivalRow.model_validate_json(path.read_text(encoding="utf-8")) for path in paths]


def run_job(job: Job, options: argparse.Namespace, parts: Path, until: float) -> str:
    """Run one; returns how it ended."""
    table = job.table
    command = [
        sys.executable, "-m", "modelsurgery", table.kind, options.model,
        "--behavior", table.behavior, "--data", str(options.data),
        "--kl", ",".join(map(str, table.kl)), "--seeds", str(job.seed),
        "--limit", str(round(options.prompts * table.prompts)),
        "--dtype", options.dtype,
        *(part for method in job.methods for part in ("--method", method)),
        "--out", str(parts / job.name), "--json",
    ]  # fmt: skip
    if options.device:
        command += ["--device", options.device]
    started = time.monotonic()
    with (parts / f"{job.name}.log").open("w") as log:
        try:
            code = subprocess.run(
                command, stdout=subprocess.DEVNULL, stderr=log, timeout=max(1.0, until - started),
                env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            return "out of time"
    return f"{'done' if code == 0 else f'exit {code}'} in {time.monotonic() - started:.0f} s"


def put_together(table: Table, parts: Path, out: Path) -> RivalsResults | None:
    """The table of all rows; None where no process ended well."""
    found = [*parts.glob(f"{table.name}-*/results.json")]
    rows = rows_in(parts, table)
    if not found or not rows:
        return None
    every = [RivalsResults.model_validate_json(path.read_text(encoding="utf-8")) for path in found]
    measured = {row.method for row in rows}
    results = every[0].model_copy(
        update={
            "seeds": sorted({row.seed for row in rows}),
            "rows": rows,
            "summary": summarize(rows, every[0].direction),
            "methods": [
                note_of(one) for name, one in methods_of(table.kind).items() if name in measured
            ],
            "failed": {name: why for one in every for name, why in one.failed.items()},
        }
    )
    write_text(out / "results.json", results.model_dump_json(indent=2))
    for name in ("manifest.json", "recipe.resolved.yaml"):  # of one process, for the report
        write_text(out / name, found[0].with_name(name).read_text(encoding="utf-8"))
    write_report(out)
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print what became of each process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=24 * 60.0)
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--device")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args(arguments)
    until = time.monotonic() + 60 * options.minutes
    tables = [TABLES[name] for name in options.tables.split(",")]
    parts = options.out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    jobs = Jobs(tables, parts)
    ended: dict[str, str] = {}

    def work() -> None:
        while time.monotonic() < until and (job := jobs.take()) is not None:
            ended[job.name] = run_job(job, options, parts, until)
            print(f"{job.name}: {ended[job.name]}", flush=True)
            jobs.done(job)

    workers = [threading.Thread(target=work) for _ in range(options.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    while (job := jobs.take()) is not None:
        ended[job.name] = "not begun"
    write_text(options.out / "ended.json", json.dumps(ended, indent=2))
    for table in tables:
        results = put_together(table, parts, options.out / table.name)
        print(f"{table.name}: {len(results.rows) if results else 0} rows", flush=True)


if __name__ == "__main__":
    main()
