"""Time, bytes and money of surgery on large models, from rates that were measured on smaller ones.

    python -m benchmarks.arithmetic [--gpu-hour 4.0] [--disk 1.0]

Prints the tables of docs/guides/big-models.md. Each figure is a size times a rate of
benchmarks/RESULTS.md; what no rate was measured for is left out. --gpu-hour is the price of one
GPU in USD an hour, --disk what the disk reads in GB a second, for loading.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PAIRS_TOKENS = 1_245  # of 50 pairs for toxicity, as SmolLM2's tokenizer counts them
NEUTRAL_TOKENS = 6_000  # that the rule reads, at most
EDITED_SHARE = 0.0465  # of gate rows, the paper's
BYTES = 2  # of a weight in bf16
# FLOP for a weight and a token: 2 forward, 2 back to activations. Each text is read once forward
# and once forward and back.
FLOP = 2 + 2 + 2

GB = 1e9


@dataclass(frozen=True)
class Rates:
    """What was measured.

    Attributes:
        flops: of the statistics of 50 pairs, a second: 7B shape, bf16, one H200, 14.3 s.
        edit: bytes of gate rows read and scored a second: 7B shape, two cores, 1.43 s.
        in_place: bytes written a second by `apply --in-place`, journal and flush included.
        undo: the same of `undo`.
        copy: bytes of a checkpoint copied and hashed a second by `apply --out --copy`.
        verify: bytes read and hashed a second by `verify`.
    """

    flops: float = FLOP * 6.66e9 * (PAIRS_TOKENS + NEUTRAL_TOKENS) / 14.3
    edit: float = 2_886e6 / 1.43
    in_place: float = 269e6 / 2.62
    undo: float = 134e6 / 1.35
    copy: float = 13.48e9 / 18.66
    verify: float = 13.48e9 / 11.45


@dataclass(frozen=True)
class Model:
    """The shape of a model.

    Attributes:
        name: what it is called in the tables.
        weights: how many.
        active: of these, how many a token uses.
        hidden: d, length of a gate row.
        rows: gate rows, those of all experts.
        gpus: that hold the weights in bf16 and what is computed, of 141 GB each.
    """

    name: str
    weights: float
    active: float
    hidden: int
    rows: int
    gpus: int

    @property
    def size(self) -> float:
        """Bytes of the checkpoint."""
        return BYTES * self.weights

    @property
    def gate_bytes(self) -> float:
        """Bytes of all gate rows."""
        return BYTES * self.hidden * self.rows

    @property
    def edited_bytes(self) -> float:
        """Bytes of the rows that an edit changes."""
        return EDITED_SHARE * self.gate_bytes


MODELS = (
    Model("7B (Llama 2)", 6.74e9, 6.74e9, 4096, 32 * 11_008, 1),
    Model("70B (Llama 2)", 68.98e9, 68.98e9, 8192, 80 * 28_672, 2),
    # Every other block is a mixture of 128 experts and a shared one.
    Model("400B mixture (Llama 4)", 401e9, 17e9, 5120, 24 * (129 * 8192 + 16_384), 8),
)


def disk_table(models: Sequence[Model], rates: Rates) -> Iterator[str]:
    """Seconds of the commands that load no model."""
    yield (
        "| model | checkpoint | gate rows | `edit` | written in place | `apply --in-place` "
        "| `undo` | `apply --out --copy` | `verify` |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for one in models:
        written = 2 * one.edited_bytes  # the journal first
        yield (
            f"| {one.name} | {one.size / GB:,.0f} GB "
            f"| {one.rows:,} ({one.gate_bytes / GB:,.0f} GB) "
            f"| {span(one.gate_bytes / rates.edit)} | {written / GB:.1f} GB "
            f"| {span(written / rates.in_place)} | {span(one.edited_bytes / rates.undo)} "
            f"| {span(one.size / rates.copy)} | {span(one.size / rates.verify)} |"
        )


def gpu_table(models: Sequence[Model], rates: Rates, hour: float, disk: float) -> Iterator[str]:
    """Seconds and money of the statistics behind a natural-gradient edit."""
    yield "| model | GPUs | load | statistics of 50 pairs | a strength measured | GPU hours | USD |"
    yield "|---|---|---|---|---|---|---|"
    for one in models:
        load = one.size / (disk * GB)
        statistics = FLOP * one.active * (PAIRS_TOKENS + NEUTRAL_TOKENS) / rates.flops
        strength = 2 * 2 * one.active * (PAIRS_TOKENS + NEUTRAL_TOKENS / 2) / rates.flops
        hours = one.gpus * (load + statistics + 4 * strength) / 3600
        yield (
            f"| {one.name} | {one.gpus} | {span(load)} | {span(statistics)} | {span(strength)} "
            f"| {hours:.2f} | {hours * hour:.2f} |"
        )


def span(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu-hour", type=float, default=4.0)
    parser.add_argument("--disk", type=float, default=1.0)
    options = parser.parse_args(arguments)
    print("\n".join(disk_table(MODELS, Rates())))
    print()
    print("\n".join(gpu_table(MODELS, Rates(), options.gpu_hour, options.disk)))


if __name__ == "__main__":
    main()
