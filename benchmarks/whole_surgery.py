"""How long it takes from 50 pairs of texts to an edit of the strength wanted.

    python -m benchmarks.whole_surgery [MODEL] [--shape 135m|1b|7b --tokenizer DIRECTORY]
        [--pairs 50]

The texts are the package's pairs for toxicity, the neutral text is its own, the budget is a
divergence of 0.02 nats per token. --shape makes a random model of that size (bf16 on a GPU, f32
elsewhere) with the vocabulary of a tokenizer in place of MODEL: time and memory are a real model's,
the edit means nothing. Texts of such a model agree on nothing, and the test of that is passed over.
"""

import argparse
import resource
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import torch
import transformers

from benchmarks.statistics import SHAPES, save_random
from modelsurgery import LanguageModel, fit_edit, load_model
from modelsurgery.data.behaviors import describe_behavior, load_behavior
from modelsurgery.errors import NoSignalError
from modelsurgery.rules.natural_gradient import Evidence
from modelsurgery.search.fitting import some_of_each

DIVERGENCE = 0.02


def random_model(shape: str, tokenizer: str, directory: Path) -> LanguageModel:
    """A Llama with random weights and the vocabulary of a tokenizer."""
    reader = transformers.AutoTokenizer.from_pretrained(tokenizer)
    save_random(shape, directory, vocab_size=len(reader))
    reader.save_pretrained(directory)
    return load_model(str(directory))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--shape", choices=tuple(SHAPES))
    parser.add_argument("--tokenizer")
    parser.add_argument("--pairs", type=int, default=50)
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    if not options.shape:
        report(load_model(options.model), options.pairs)
        return
    with tempfile.TemporaryDirectory() as directory, patch.object(Evidence, "is_clear", new=True):
        model = random_model(options.shape, options.tokenizer, Path(directory))
        report(model, options.pairs)


def report(model: LanguageModel, pairs: int) -> None:
    """Time one model."""
    behavior = load_behavior(describe_behavior("toxicity"), seed=0, prompt_count=1)
    texts = some_of_each(behavior.train, pairs)
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    try:
        edit = fit_edit(
            model,
            texts,
            behavior.validation_neutral,
            max_divergence=DIVERGENCE,
            max_perplexity_rise=None,
        )
        ended = f"{edit.row_count} rows at strength {edit.strength:.3g}"
    except NoSignalError:
        ended = "texts do not agree (statistics are done)"
    seconds = time.perf_counter() - started
    weights = sum(one.numel() * one.element_size() for one in model.model.parameters())
    if on_gpu:
        peak, place = torch.cuda.max_memory_allocated(), torch.cuda.get_device_name()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        place = f"{torch.get_num_threads()} threads"
    print(
        f"{len(texts)} texts, {model.model.dtype}, {place}: {seconds:.1f} s; {ended}; peak memory "
        f"{peak / 2**30:.2f} GiB, weights {weights / 2**30:.2f} GiB",
        flush=True,
    )


if __name__ == "__main__":
    main()
