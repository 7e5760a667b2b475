"""Generation: an evaluation of the demo model, and our batches against transformers' own.

    python -m benchmarks generation [--model DIR] [--rounds N]

The second part continues the same prompts with `model.generate` of transformers in batches of equal
size, sorted by length and padded on the left, without any of our code, and with ours. The third
samples few prompts several times, seed after seed and all seeds together.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from modelsurgery import (
    LanguageModel,
    demo_model_path,
    load_model,
    make_edit,
    save_edit,
    score_rows,
    select_region,
)
from modelsurgery.data import demo
from modelsurgery.evaluation.generation import Decoding, TransformersGenerator

PROMPTS = 300
NEW_TOKENS = 20


def write_edit(model: LanguageModel, path: Path) -> None:
    """A random edit, to have something to apply."""
    size = model.model.config.get_text_config().hidden_size
    direction = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    region = select_region(score_rows(model.checkpoint, model.gates, direction[None]), 0.02)
    save_edit(make_edit(region, direction, strength=2.0).bound_to(model.checkpoint), path)


def whole_evaluation(rounds: int) -> list[float]:
    """Seconds of `surgery evaluate` on the demo model, process start and all."""
    seconds = []
    with tempfile.TemporaryDirectory() as place:
        edit = Path(place) / "edit.safetensors"
        write_edit(load_model(demo_model_path()), edit)
        for number in range(rounds):
            command = [sys.executable, "-m", "modelsurgery", "evaluate", "demo", "--json"]
            options = ["--edit", str(edit), "--limit", str(PROMPTS), "--max-new-tokens"]
            out = ["--out", str(Path(place) / str(number))]
            started = time.perf_counter()
            subprocess.run(
                [*command, *options, str(NEW_TOKENS), *out],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            seconds.append(time.perf_counter() - started)
    return seconds


def plain_generate(model: LanguageModel, prompts: Sequence[str], batch: int) -> int:
    """What a user would write; gives the number of prompts."""
    order = sorted(prompts, key=len)
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            inputs = model.tokenizer(
                order[start : start + batch],
                return_tensors="pt",
                padding=True,
                padding_side="left",
                return_token_type_ids=False,
            )
            model.model.generate(
                **inputs.to(model.device),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                pad_token_id=model.tokenizer.pad_token_id,
            )
    return len(order)


def seed_after_seed(
    generator: TransformersGenerator, prompts: Sequence[str], decodings: Sequence[Decoding]
) -> None:
    """Each sample of all prompts by itself."""
    for one in decodings:
        generator.generate(prompts, one)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=demo_model_path())
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    times = whole_evaluation(options.rounds)
    print(
        f"`surgery evaluate demo`, {PROMPTS} prompts x {NEW_TOKENS} tokens, base and edited: "
        f"{statistics.median(times):.1f} s ({min(times):.1f}-{max(times):.1f})\n"
    )
    model = load_model(options.model)
    prompts = list(dict.fromkeys(demo.prompts("toxicity", "test", PROMPTS, 0)))
    print("| prompts in a batch | ours, s | transformers' generate, s | ours / theirs |")
    print("|---|---|---|---|")
    for batch in (1, 16, 64, 256):
        some = prompts[:32] if batch == 1 else prompts
        width = max(len(ids) for ids in model.tokenizer(some)["input_ids"]) + NEW_TOKENS
        generator = TransformersGenerator(model, batch_tokens=batch * width)
        ways: list[Callable[[], object]] = [
            partial(generator.generate, some, Decoding(NEW_TOKENS)),
            partial(plain_generate, model, some, batch),
        ]
        print(f"| {batch} | {compared(ways, options.rounds)} |")
    print("\n| prompts | samples of each | together, s | seed after seed, s | ratio |")
    print("|---|---|---|---|---|")
    for count, samples in ((10, 3), (16, 7), (64, 3)):
        generator, some = TransformersGenerator(model), prompts[:count]
        decodings = [Decoding(NEW_TOKENS, seed=seed) for seed in range(samples)]

        ways = [
            partial(generator.generate_sides, some, decodings, [()]),
            partial(seed_after_seed, generator, some, decodings),
        ]
        print(f"| {count} | {samples} | {compared(ways, options.rounds)} |")


def compared(ways: Sequence[Callable[[], object]], rounds: int) -> str:
    """Median seconds of two ways in turn and the ratio, with its range, as cells of a table."""
    measured: list[list[float]] = [[], []]
    for _ in range(rounds):
        for seconds, way in zip(measured, ways, strict=True):
            started = time.perf_counter()
            way()
            seconds.append(time.perf_counter() - started)
    first, second = (statistics.median(one) for one in measured)
    ratios = [one / other for one, other in zip(*measured, strict=True)]
    return (
        f"{first:.2f} | {second:.2f} | {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f}-{max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
