"""How fast statistics of activations are made, and what they cost in memory.

    python -m benchmarks.statistics [MODEL] [--shape 1b|7b] [--tokens 2000] [--rounds 3]

One process, one model, the same batches for all: plain transformers' forward pass without and with
its head (`model(**batch)`), extraction of hidden states, gate inputs, and the passes forward and
back, with and without computing blocks again. Ratios of medians are what counts; the machine's
peak is that of the largest matrix products of the model itself, timed in the same run.
--shape makes a random model of that size in place of MODEL.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from modelsurgery import LanguageModel, extract_hidden_states, load_model
from modelsurgery.checkpoint.directory import open_checkpoint
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.activations.sites import find_sites
from modelsurgery.model.activations.statistics import measure_gains, measure_inputs, measure_prices
from modelsurgery.model.activations.texts import TokenizedText, text_batches
from modelsurgery.model.halves import Halves

SHAPES: dict[str, dict[str, int]] = {
    "135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
             "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256},
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000},
}  # fmt: skip
WIDTH = 64  # tokens of a text


class RandomTokenizer:
    """Stands in for a tokenizer where texts are random ids."""

    pad_token_id = 0
    chat_template = None
    all_special_ids: tuple[int, ...] = ()


def save_random(shape: str, directory: Path, **changed: int) -> Any:
    """A Llama with random weights, in f32 on a CPU and bf16 on a GPU, in a directory too."""
    values = SHAPES[shape] | changed
    config = transformers.LlamaConfig(**values, tie_word_embeddings=True)
    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu else torch.float32
    with torch.device("cuda" if on_gpu else "cpu"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(directory)
    return model


def random_model(shape: str, directory: Path) -> LanguageModel:
    """The same, for texts of random ids."""
    model = save_random(shape, directory).eval().requires_grad_(False)
    return LanguageModel(model, RandomTokenizer(), open_checkpoint(directory))


def timed(work: Callable[[], Any], rounds: int) -> float:
    """Median seconds."""
    work()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def peak_flops(model: LanguageModel, tokens: int, rounds: int) -> float:
    """Multiplications and additions a second of the gate projection's product, a batch at once."""
    site = find_sites(model.model)[0]
    weight = site.parameter
    inputs = torch.randn(tokens, site.hidden_size, device=weight.device, dtype=weight.dtype)
    with torch.inference_mode():
        seconds = timed(lambda: torch.nn.functional.linear(inputs, weight), 10 * rounds)
    return 2 * tokens * weight.numel() / seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--shape", choices=tuple(SHAPES))
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as directory:
        if options.shape:
            model = random_model(options.shape, Path(directory))
        else:
            model = load_model(options.model)
        report(model, options.tokens, options.rounds)


def report(model: LanguageModel, tokens: int, rounds: int) -> None:
    """Measure one model."""
    generator = torch.Generator().manual_seed(0)
    size = int(model.model.config.get_text_config().vocab_size)
    ids = torch.randint(3, size, (max(1, tokens // WIDTH), WIDTH), generator=generator).tolist()
    texts = [TokenizedText(tuple(one)) for one in ids]
    total = len(texts) * WIDTH
    sites = find_sites(model.model)
    directions = {site.name: torch.ones(1, site.hidden_size) for site in sites}
    passes = Passes(model)
    step = passes.reader().batch_tokens
    halves = Halves(model.model)

    def plain(head: bool) -> None:
        with torch.inference_mode():
            for batch in text_batches(model, texts, step):
                if head:
                    model.model(**batch.inputs, use_cache=False)
                else:
                    halves.last_states(batch.inputs)

    works: dict[str, Callable[[], Any]] = {
        "plain forward": lambda: plain(False),
        "plain forward with head": lambda: plain(True),
        "gate inputs (forward)": lambda: measure_inputs(passes, sites, [texts]),
        "prices (forward and back)": lambda: measure_prices(passes, sites, texts),
        "gains (forward and back)": lambda: measure_gains(passes, sites, directions, [[texts]]),
        "gains, blocks computed again": lambda: measure_gains(
            Passes(model, checkpointing=True), sites, directions, [[texts]]
        ),
    }
    if not isinstance(model.tokenizer, RandomTokenizer):
        plain_texts = [model.tokenizer.decode(one.ids) for one in texts]
        works["hidden states, middle layer"] = lambda: extract_hidden_states(
            model, plain_texts, [model.layer_count // 2]
        )
    blocks = sum(
        parameter.numel()
        for name, parameter in model.model.named_parameters()
        if parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
    )
    peak = peak_flops(model, step, rounds)
    found = {name: timed(work, rounds) for name, work in works.items()}
    base = found["plain forward"]
    print(f"{total} tokens in texts of {WIDTH}, {step} in a batch, {model.model.dtype}, "
          f"{model.device}, {torch.get_num_threads()} threads; peak of the gate product "
          f"{peak / 1e9:.0f} GFLOP/s\n")  # fmt: skip
    print("| work | tokens/s | of plain forward's time | of the peak |\n|---|---|---|---|")
    for name, seconds in found.items():
        share = 2 * blocks * total / seconds / peak
        shown = f"{share:.0%}" if "forward" in name and "back" not in name else ""
        print(f"| {name} | {total / seconds:,.0f} | {seconds / base:.2f} | {shown} |")
    if torch.cuda.is_available():
        print(f"\npeak GPU memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    weights = sum(one.numel() * one.element_size() for one in model.model.parameters())
    peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"\npeak memory {peak_memory / 2**30:.2f} GiB, weights {weights / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
