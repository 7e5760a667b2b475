"""Hidden states: batches by length against one text at a time, in one run.

    python -m benchmarks.extraction [--model DIR] [--texts N]

Prints seconds of both, alternating, and the median of the pairwise ratios. One pass also replaces
the paper's nine (its code repeats the forward pass for every epoch), which is not counted here.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from modelsurgery import demo_model_path, extract_hidden_states, load_model
from modelsurgery.data import demo

ROUNDS = 3


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=demo_model_path())
    parser.add_argument("--texts", type=int, default=600)
    options = parser.parse_args(arguments)
    model = load_model(options.model)
    texts = [text for text, _ in demo.labeled_texts("toxicity", options.texts, 0)]
    layer = [model.layer_count]
    extract_hidden_states(model, texts[:32], layer)  # warm-up
    ratios = []
    for _ in range(ROUNDS):
        one_by_one = seconds(lambda: extract_hidden_states(model, texts, layer, batch_tokens=1))
        batched = seconds(lambda: extract_hidden_states(model, texts, layer))
        ratios.append(one_by_one / batched)
        print(f"one by one {one_by_one:.2f} s, batched {batched:.2f} s")
    print(f"extraction of {len(texts)} texts: batched is {statistics.median(ratios):.1f} x as fast")


if __name__ == "__main__":
    main()
