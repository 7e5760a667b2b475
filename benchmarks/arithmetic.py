"""Time, bytes and money of surgery on large models, from rates that were measured on smaller ones.

    python -m benchmarks.arithmetic [--gpu-hour 4.0] [--disk 1.0] [--pcie 25.0]

Prints the tables of docs/guides/big-models.md. Each figure is a size times a rate of
benchmarks/RESULTS.md; what no rate was measured for is left out. --gpu-hour is the price of one
GPU in USD an hour, --disk what the disk reads in GB a second, for loading, --pcie how many GB a
second go from the CPU's memory to a GPU.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PAIRS_TOKENS = 1_245  # of 50 pairs for toxicity, as SmolLM2's tokenizer counts them
NEUTRAL_TOKENS = 6_000  # that the rule reads, at most
EDITED_SHARE = 0.0465  # of gate rows, the paper's
BYTES = 2  # of a weight in bf16
# FLOP for a weight and a token: 2 forward, 2 back to activations. Each text is read once forward
# and once forward and back.
FLOP = 2 + 2 + 2

PASS_TOKENS = 2048  # of a batch that is read forward alone
GRAPH_TOKENS = 8192  # of a batch that is read forward and back, at most
CACHED_TOKENS = 256 * 256  # 256 prompts with their continuations are generated at once, at most
SPREAD_GPUS, SPREAD_GPU_BYTES = 8, 80e9
NEW_TOKENS = 128  # of a continuation

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
        blocks: L.
        inner: neurons of a block that a token passes.
        key_values: values of the keys of one token in one block; those of the values are as many.
        gates: gate matrices with inputs of their own, in all blocks.
    """

    name: str
    weights: float
    active: float
    hidden: int
    rows: int
    gpus: int
    blocks: int
    inner: int
    key_values: int
    gates: int

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
    Model("7B (Llama 2)", 6.74e9, 6.74e9, 4096, 32 * 11_008, 1, 32, 11_008, 4096, 32),
    Model("70B (Llama 2)", 68.98e9, 68.98e9, 8192, 80 * 28_672, 2, 80, 28_672, 1024, 80),
    # Every other block is a mixture of 128 experts and a shared one.
    Model(
        "400B mixture (Llama 4)", 401e9, 17e9, 5120, 24 * (129 * 8192 + 16_384), 8,
        48, 16_384, 1024, 24 + 24 + 24,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Share:
    """Memory on the device that has the most blocks, in bytes.

    Attributes:
        weights: of its blocks, embeddings and head being counted as a part of each.
        moments: second moments of what its gates read.
        graph: what a batch keeps from the pass forward for the one back.
        cache: keys and values of a batch that is continued.
    """

    weights: float
    moments: float
    graph: float
    cache: float

    @property
    def statistics(self) -> float:
        """Peak while texts are read forward and back."""
        return self.weights + self.moments + self.graph

    @property
    def generation(self) -> float:
        """Peak while prompts are continued."""
        return self.weights + self.cache


def largest_share(
    model: Model,
    devices: int,
    *,
    itemsize: int = BYTES,
    graph_tokens: int = GRAPH_TOKENS,
    cached_tokens: int = CACHED_TOKENS,
) -> Share:
    """Memory on the device that has the most blocks, with as many on each as goes.

    Args:
        model: its shape, d = 8,192 at most.
        devices: that blocks are spread over.
        itemsize: bytes of a weight and of an activation.
        graph_tokens: tokens of a batch that is read forward and back.
        cached_tokens: tokens of a batch that is continued, the new ones too.
    """
    here = math.ceil(model.blocks / devices) / model.blocks  # share of the blocks
    # A block keeps 14 tensors of the hidden size and 5 of its neurons (model/activations/losses).
    graph = model.blocks * (14 * model.hidden + 5 * model.inner) * graph_tokens
    cache = model.blocks * 2 * model.key_values * cached_tokens
    return Share(
        here * itemsize * model.weights,
        here * 4 * model.gates * model.hidden**2,
        here * itemsize * graph,
        here * itemsize * cache,
    )


def spread_table(models: Sequence[Model]) -> Iterator[str]:
    """Memory for each of several GPUs."""
    yield (
        "| model | weights | moments | graph of 8,192 tokens | keys and values | statistics | "
        "generation |"
    )
    yield "|---|---|---|---|---|---|---|"
    for one in models:
        share = largest_share(one, SPREAD_GPUS)
        parts = (
            share.weights, share.moments, share.graph, share.cache,
            share.statistics, share.generation,
        )  # fmt: skip
        yield f"| {one.name} | {' | '.join(f'{part / GB:,.1f} GB' for part in parts)} |"


def offloaded_table(models: Sequence[Model], disk: float, pcie: float) -> Iterator[str]:
    """Seconds that moving weights adds where one GPU holds what it can."""
    yield "| model | not on the GPU | from | a pass | statistics of 50 pairs | 128 new tokens |"
    yield "|---|---|---|---|---|---|"
    forward = 2 + math.ceil(NEUTRAL_TOKENS / PASS_TOKENS)  # two kinds of texts, neutral text
    back = 3 + 1  # gains of two kinds and of neutral text, prices: each in a batch
    for one in models:
        share = largest_share(one, 1)
        used = share.moments + one.size / one.blocks + share.graph / one.blocks  # recomputed
        moved = max(0.0, one.size + used - SPREAD_GPU_BYTES)
        for name, rate in (("the CPU's memory", pcie), ("disk", disk)):
            if moved:
                turn = moved / (rate * GB)
                yield (
                    f"| {one.name} | {moved / GB:,.0f} GB | {name} | {span(turn)} "
                    f"| {span((forward + 2 * back) * turn)} | {span(NEW_TOKENS * turn)} |"
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
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu-hour", type=float, default=4.0)
    parser.add_argument("--disk", type=float, default=1.0)
    parser.add_argument("--pcie", type=float, default=25.0)
    options = parser.parse_args(arguments)
    print("\n".join(disk_table(MODELS, Rates())))
    print()
    print("\n".join(gpu_table(MODELS, Rates(), options.gpu_hour, options.disk)))
    print()
    print("\n".join(spread_table(MODELS)))
    print()
    print("\n".join(offloaded_table(MODELS, options.disk, options.pcie)))


if __name__ == "__main__":
    main()
