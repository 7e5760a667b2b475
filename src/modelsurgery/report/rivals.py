"""Methods side by side in a terminal: one table a divergence, best first."""

from collections.abc import Iterator, Sequence
from typing import Literal

from rich.console import Console

from modelsurgery.report.lines import print_aligned, print_line, print_lines
from modelsurgery.results.rivals import RivalsResults, RivalSummary
from modelsurgery.results.tables import shown


def print_rivals(results: RivalsResults, console: Console) -> None:
    """Print what was measured, and what each line means."""
    name, count = results.prompts
    print_line(headline(results), console, "bold")
    for target, lines in tables_by_divergence(results):
        console.print()
        print_line(f"at a divergence of {target:g} nats per token", console, "bold")
        print_aligned(lines, [0, len(lines[0]) - 1], console)
    print_lines(notes_of_rivals(results), console, "dim")
    print_line(f"{count} held-out prompts ({name})", console, "dim")


def headline(results: RivalsResults) -> str:
    """What was compared."""
    done = "added" if results.direction == "toward" else "removed"
    return f"{results.behavior.name} {done}, model {results.model.name}: methods side by side"


def tables_by_divergence(results: RivalsResults) -> Iterator[tuple[float, list[list[str]]]]:
    """Divergences with their tables: heads, the base model, methods."""
    for target in results.divergences:
        rows = [one for one in results.summary if one.target == target]
        if rows:
            yield target, _table(results, rows)


def _table(results: RivalsResults, rows: Sequence[RivalSummary]) -> list[list[str]]:
    tasks = sorted({name for row in rows for name in row.tasks})
    uncalled = ["not called for"] if any(row.uncalled is not None for row in rows) else []
    heads = [
        "method", "greedy", "sampled", *uncalled, "perplexity", "KL", "selectivity", *tasks,
        "fit", "memory", "tokens/s", "parameters", "ships as",
    ]  # fmt: skip
    notes = {one.name: one for one in results.methods}
    speed = results.base_tokens_per_second
    lines = [{"method": "base model", **_rates(rows[0], 0), "tokens/s": _shown(speed, ".0f")}]
    for row in rows:
        cost, note = row.cost, notes[row.method]
        memory = None if cost.peak_bytes is None else cost.peak_bytes / 2**30
        lines.append(
            {
                "method": note.title + ("" if row.is_met else " *"),
                **_rates(row, 1),
                "perplexity": f"{row.perplexity_rise:+.1%}",
                "KL": f"{row.divergence:.4f}",
                "selectivity": f"{row.selectivity:+.3f}",
                "fit": f"{cost.fit_seconds:.0f} s",
                "memory": _shown(memory, ".1f", " GiB"),
                "tokens/s": _shown(cost.tokens_per_second, ".0f"),
                "parameters": _shown_count(cost.touched),
                "ships as": note.delivery,
            }
        )
    return [heads, *([line.get(head, "") for head in heads] for line in lines)]


def _rates(row: RivalSummary, side: Literal[0, 1]) -> dict[str, str]:
    """What is known of the base model (0) too, by head."""
    return {
        "greedy": shown(row.greedy[side]),
        "sampled": shown(row.sampled[side]),
        "not called for": shown(row.uncalled and row.uncalled[side]),
        **{name: f"{both[side].rate:.1%}" for name, both in row.tasks.items()},
    }


def notes_of_rivals(results: RivalsResults) -> list[str]:
    """What to know of the figures."""
    seeds = len(results.seeds)
    notes = [
        f"rates with 95 % intervals over the prompts of {seeds} {'seed' if seeds == 1 else 'seeds'}"
        "; each method is as strong as that divergence on validation text allows; selectivity: how "
        "far held-out texts of the behavior and their opposites are pulled apart, nats per token",
        *(f"judge {one.name}: {one.note}" for one in results.judges[:1]),
    ]
    if any(not one.is_met for one in results.summary):
        notes.append("* the divergence was not reached within a tenth: its strength has a limit")
    notes += [f"{name} gave nothing: {why}" for name, why in results.failed.items()]
    return notes


def _shown(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _shown_count(count: int) -> str:
    """A number of parameters."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)
