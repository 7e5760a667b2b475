"""Methods side by side in a terminal: one table a divergence, best first."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from modelsurgery.results.parts import Rate
from modelsurgery.results.rivals import RivalsResults, RivalSummary

HEADS = (
    "method", "greedy", "sampled", "perplexity", "KL", "selectivity", "fit", "memory", "tokens/s",
    "parameters", "ships as",
)  # fmt: skip


def print_rivals(results: RivalsResults, console: Console) -> None:
    """Print what was measured, and what each line means."""
    name, count = results.prompts
    console.print(Text(headline(results), style="bold"))
    for target in results.divergences:
        rows = [one for one in results.summary if one.target == target]
        if rows:
            console.print()
            console.print(Text(f"at a divergence of {target:g} nats per token", style="bold"))
            print_aligned(*table_cells(results, rows), console)
    for line in notes_of_rivals(results):
        console.print(Text(line, style="dim"))
    console.print(Text(f"{count} held-out prompts ({name})", style="dim"))


def headline(results: RivalsResults) -> str:
    """What was compared."""
    done = "added" if results.direction == "toward" else "removed"
    return f"{results.behavior.name} {done}, model {results.model.name}: methods side by side"


def print_aligned(heads: Sequence[str], lines: Sequence[Sequence[str]], console: Console) -> None:
    """Print a table in columns."""
    head, *rest = aligned(heads, lines)
    console.print(Text(head, style="bold"))
    for line in rest:
        console.print(Text(line))


def aligned(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text in columns, the first and the last on the left."""
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *middle, last = cells
        numbers = (cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True))
        return "  ".join((first.ljust(widths[0]), *numbers, last)).rstrip()

    return [line(heads), *map(line, lines)]


def table_cells(
    results: RivalsResults, rows: Sequence[RivalSummary]
) -> tuple[list[str], list[list[str]]]:
    """Heads and lines, the base model first."""
    notes = {one.name: one for one in results.methods}
    tasks = sorted({name for row in rows for name in row.tasks})
    has_uncalled = any(row.uncalled is not None for row in rows)
    heads = list(HEADS)
    heads[3:3] = ["not called for"] if has_uncalled else []
    heads[heads.index("fit") : heads.index("fit")] = tasks
    lines = [_base_line(results, rows[0], heads)]
    for row in rows:
        cost, note = row.cost, notes[row.method]
        cells = {
            "method": note.title + ("" if row.is_met else " *"),
            "greedy": shown_rate(row.greedy[1]),
            "sampled": shown_rate(row.sampled[1]),
            "not called for": "" if row.uncalled is None else shown_rate(row.uncalled[1]),
            "perplexity": f"{row.perplexity_rise:+.1%}",
            "KL": f"{row.divergence:.4f}",
            "selectivity": f"{row.selectivity:+.3f}",
            **{name: f"{both[1].rate:.1%}" for name, both in row.tasks.items()},
            "fit": f"{cost.fit_seconds:.0f} s",
            "memory": "" if cost.peak_bytes is None else f"{cost.peak_bytes / 2**30:.1f} GiB",
            "tokens/s": "" if cost.tokens_per_second is None else f"{cost.tokens_per_second:.0f}",
            "parameters": shown_count(cost.touched),
            "ships as": note.delivery,
        }
        lines.append([cells[head] for head in heads])
    return heads, lines


def _base_line(results: RivalsResults, row: RivalSummary, heads: Sequence[str]) -> list[str]:
    speed = results.base_tokens_per_second
    cells = {
        "method": "base model",
        "greedy": shown_rate(row.greedy[0]),
        "sampled": shown_rate(row.sampled[0]),
        "not called for": "" if row.uncalled is None else shown_rate(row.uncalled[0]),
        "tokens/s": "" if speed is None else f"{speed:.0f}",
        **{name: f"{both[0].rate:.1%}" for name, both in row.tasks.items()},
    }
    return [cells.get(head, "") for head in heads]


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


def shown_rate(rate: Rate) -> str:
    """A rate with its interval."""
    return f"{rate.rate:.1%} ({100 * rate.low:.0f}-{100 * rate.high:.0f})"


def shown_count(count: int) -> str:
    """A number of parameters."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)
