"""Peak memory of measurements with a large vocabulary.

    python -m benchmarks.memory [--shape gemma-3-270m|tiny] [--workdir DIR]

A random model in the shape of Gemma 3 270M (vocabulary 262,144) reads 2,040 tokens of neutral text,
base and edited. Each measurement is a process of its own (benchmarks/measured.py) that loads the
model; the first only loads it. Prints Markdown. To measure another commit, put its `src` first in
PYTHONPATH.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.measured import measure
from modelsurgery import (
    find_gate_matrices,
    load_edit,
    load_model,
    make_edit,
    open_checkpoint,
    save_edit,
    score_rows,
    select_region,
)
from modelsurgery.evaluation.capability.windows import compare_perplexity
from modelsurgery.evaluation.language_modelling import compare_language_modelling
from modelsurgery.evaluation.screening import Screen

ALLOWED_BYTES = 1.5e9  # above the model's own
TEXTS, TEXT_TOKENS = 8, 255  # 2,040 tokens of neutral text
SCREENED = 8  # edits
PROMPTS = 24
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
EDIT_FILE = "edit.safetensors"
STEPS = {
    "load": "the model is loaded",
    "perplexity": "perplexity and divergence",
    "windows": "perplexity of one window of 2,040 tokens",
    "screening": f"screening of {SCREENED} edits",
    "evaluate": f"`surgery evaluate`, {PROMPTS} prompts, sampled",
}


@dataclass(frozen=True)
class Shape:
    """A Gemma 3 text model: vocabulary, blocks, hidden size, inner size, size of a head."""

    vocabulary: int
    blocks: int
    width: int
    inner: int
    head: int

    def config(self) -> transformers.PreTrainedConfig:
        """Its configuration."""
        return transformers.Gemma3TextConfig(
            vocab_size=self.vocabulary,
            num_hidden_layers=self.blocks,
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=self.head,
            query_pre_attn_scalar=self.head,
            sliding_window=512,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        )


SHAPES = {
    "gemma-3-270m": Shape(262_144, 18, 640, 2048, 256),
    "tiny": Shape(4_096, 2, 32, 64, 16),
}


def write_model(directory: Path, shape: Shape) -> None:
    """A random model in bf16, with a tokenizer of as many words, and an edit of it."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(shape.config(), dtype=torch.bfloat16)
    model.save_pretrained(directory)
    words = [*SPECIAL, *(f"w{number}" for number in range(shape.vocabulary - len(SPECIAL)))]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(directory)
    checkpoint = open_checkpoint(directory)
    gates = find_gate_matrices(checkpoint)
    direction = np.random.default_rng(0).standard_normal(shape.width).astype(np.float32)
    region = select_region(score_rows(checkpoint, gates, direction[None]), 0.02)
    edit = make_edit(region, direction, strength=4.0).bound_to(checkpoint)
    save_edit(edit, directory / EDIT_FILE)


def write_texts(directory: Path, shape: Shape) -> None:
    """Neutral text, prompts and labeled texts of a behavior, all of random words."""
    random = np.random.default_rng(1)

    def lines(count: int, words: int) -> list[str]:
        numbers = random.integers(shape.vocabulary - len(SPECIAL), size=(count, words))
        return [" ".join(f"w{number}" for number in row) for row in numbers.tolist()]

    files = {
        "neutral.txt": lines(2 * TEXTS, TEXT_TOKENS),  # every other line is held out
        "prompts.txt": lines(PROMPTS, 12),
        "shows.txt": [f"w1 {line}" for line in lines(60, 8)],
        "opposite.txt": [f"w2 {line}" for line in lines(60, 8)],
        "behavior.yaml": ["name: words", "shows: w1", "opposite: w2",
                          "texts: {shows: shows.txt, opposite: opposite.txt}"],
    }  # fmt: skip
    for name, content in files.items():
        (directory / name).write_text("\n".join(content) + "\n", encoding="utf-8")


def perform(step: str, directory: Path) -> None:
    """One measurement, in the process that is measured."""
    model, edit = load_model(directory, device="cpu"), load_edit(directory / EDIT_FILE)
    texts = (directory / "neutral.txt").read_text(encoding="utf-8").splitlines()[1::2]
    if step == "perplexity":
        compare_language_modelling(model, texts, [edit])
    elif step == "windows":
        compare_perplexity(model, " ".join(texts), [edit], window_tokens=TEXTS * TEXT_TOKENS)
    elif step == "screening":
        edits = [edit.scaled(number / SCREENED) for number in range(1, SCREENED + 1)]
        Screen(model, (), (), texts).measure(edits)


def command(step: str, directory: Path) -> list[object]:
    """What is run for a step."""
    if step != "evaluate":
        return [sys.executable, "-m", "benchmarks.memory", "--step", step, "--workdir", directory]
    out = tempfile.mkdtemp(dir=directory)
    return [
        sys.executable, "-m", "modelsurgery", "evaluate", directory, "--device", "cpu",
        "--edit", directory / EDIT_FILE, "--behavior", directory / "behavior.yaml",
        "--prompts", directory / "prompts.txt", "--neutral", directory / "neutral.txt",
        "--judge", "texts", "--samples", "1", "--max-new-tokens", "8", "--out", f"{out}/run",
    ]  # fmt: skip


def report(directory: Path) -> None:
    """Measure all steps and print Markdown."""
    own = load_size(directory)
    print(f"The model's own size in f32: {own / 1e9:.2f} GB.\n")
    print("| measurement | peak, GB | above the model, GB | 1.5 GB | seconds |")
    print("|---|---|---|---|---|")
    for step, label in STEPS.items():
        measured = measure(command(step, directory))
        above = measured.peak_bytes - own
        verdict = "met" if above <= ALLOWED_BYTES else "**missed**"
        print(
            f"| {label} | {measured.peak_bytes / 1e9:.2f} | {above / 1e9:.2f} | {verdict} | "
            f"{measured.seconds:.0f} |",
            flush=True,
        )


def load_size(directory: Path) -> int:
    """Bytes of a model's parameters in f32."""
    return 2 * open_checkpoint(directory).size_bytes


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="gemma-3-270m")
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.step:
        perform(options.step, options.workdir)
        return
    with tempfile.TemporaryDirectory(dir=options.workdir) as place:
        write_model(Path(place), SHAPES[options.shape])
        write_texts(Path(place), SHAPES[options.shape])
        report(Path(place))


if __name__ == "__main__":
    main()
