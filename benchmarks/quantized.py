"""An edit made from full precision, as an adapter on quantized bases of the demo model.

    PYTHONPATH=tests python -m benchmarks.quantized [--prompts N] [--strength S]

Rates are of greedy continuations of held-out prompts, judged exactly. Divergence is the mean
KL(f32 || quantized) of the next token after each prompt, in nats, base against base and edited
against edited; llama.cpp's probabilities come as text, and 0.00002 is not told from 0. The writer
of GGUF bases is that of the tests; Q* files quantize all matrices, the embedding included. Needs
the packages gguf, xllamacpp, torchao and peft.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torchao import quantization

from llama_cpp import LlamaCpp, write_gguf_model
from modelsurgery import (
    Edit,
    LanguageModel,
    demo_model_path,
    edited,
    extract_hidden_states,
    load_model,
    make_edit,
    score_rows,
    select_region,
    write_gguf_adapter,
    write_peft_adapter,
)
from modelsurgery.data import demo
from modelsurgery.data.behaviors import describe_behavior, load_behavior
from modelsurgery.evaluation.judges import judge_for

BEHAVIOR = "toxicity"
LAYER, ROWS = 2, 0.04
NEW_TOKENS = 24
GGUF_KINDS = ("F32", "F16", "Q8_0", "Q5_0", "Q4_0")
TORCHAO: dict[str, Callable[[], Any]] = {
    "int8": quantization.Int8WeightOnlyConfig,
    "int4, groups of 32": lambda: quantization.IntxWeightOnlyConfig(
        weight_dtype=torch.int4, granularity=quantization.PerGroup(32)
    ),
}


@dataclass(frozen=True)
class Said:
    """What a model said: a text for each prompt, log-probabilities of the first token [n, v]."""

    texts: list[str]
    first: torch.Tensor


def made_edit(model: LanguageModel, strength: float) -> Edit:
    """An edit along the difference of means, made from the checkpoint in full precision."""
    rows = demo.labeled_texts(BEHAVIOR, 400, 0)
    states = extract_hidden_states(model, [text for text, _ in rows], [LAYER]).by_layer[LAYER]
    shows = torch.tensor([label == 1 for _, label in rows])
    direction = (states[shows].mean(0) - states[~shows].mean(0)).numpy()
    region = select_region(score_rows(model.checkpoint, model.gates, direction[None]), ROWS)
    return make_edit(region, direction, strength=strength).bound_to(model.checkpoint)


def said_by_torch(loaded: LanguageModel, model: Any, prompts: Sequence[str]) -> Said:
    batch = loaded.tokenize(list(prompts), side="left")
    with torch.no_grad():
        first = model(**batch).logits[:, -1].float().log_softmax(-1)
        whole = model.generate(**batch, max_new_tokens=NEW_TOKENS, do_sample=False)
    new = whole[:, batch["input_ids"].shape[1] :]
    return Said(loaded.tokenizer.batch_decode(new, skip_special_tokens=True), first)


def said_by_llama_cpp(loaded: LanguageModel, engine: LlamaCpp, prompts: Sequence[str]) -> Said:
    size = loaded.model.config.vocab_size
    texts, first = [], torch.full((len(prompts), size), -torch.inf)
    for number, prompt in enumerate(prompts):
        ids = loaded.tokenizer(prompt)["input_ids"]
        texts.append(engine.continued(ids, NEW_TOKENS)[0])
        _, _, (ranked,) = engine.continued(ids, 1, alternatives=size)
        first[number, list(ranked)] = torch.tensor(list(ranked.values()))
    return Said(texts, first)


def divergence(reference: Said, other: Said) -> float:
    """Mean KL in nats, 0 where rounding makes it less."""
    terms = torch.nn.functional.kl_div(
        other.first, reference.first, reduction="none", log_target=True
    )
    return max(0.0, float(terms.sum(-1).mean()))


def quantized_bases(
    loaded: LanguageModel, edit: Edit, prompts: Sequence[str]
) -> Iterator[tuple[str, Said, Said]]:
    """Name, what the base said, what base and adapter said, of each format."""
    with tempfile.TemporaryDirectory() as place:
        adapter = write_peft_adapter(loaded.checkpoint, [edit], Path(place) / "peft").directory
        for name, config in TORCHAO.items():
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                loaded.checkpoint.directory, dtype=torch.float32
            )
            quantization.quantize_(model, config())
            base = said_by_torch(loaded, model, prompts)
            adapted = peft.PeftModel.from_pretrained(model, adapter)
            yield f"torchao {name}, PEFT", base, said_by_torch(loaded, adapted, prompts)
        file = write_gguf_adapter(loaded.checkpoint, [edit], Path(place) / "adapter.gguf").path
        for kind in GGUF_KINDS:
            whole = write_gguf_model(
                loaded.checkpoint.directory, Path(place) / f"{kind}.gguf", kind
            )
            base, after = (
                said_by_llama_cpp(loaded, LlamaCpp(whole, adapters), prompts)
                for adapters in ([], [(file, 1.0)])
            )
            yield f"llama.cpp {kind}", base, after


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--strength", type=float, default=4.0)
    options = parser.parse_args(arguments)
    loaded = load_model(demo_model_path())
    edit = made_edit(loaded, options.strength)
    prompts = list(demo.prompts(BEHAVIOR, "test", options.prompts, 0))
    behavior = load_behavior(
        describe_behavior(BEHAVIOR), is_demo=True, prompt_count=options.prompts
    )
    judge = judge_for(behavior)

    def rate(said: Said) -> float:
        return judge(prompts, said.texts).count("behavior") / len(prompts)

    base = said_by_torch(loaded, loaded.model, prompts)
    with edited(loaded.model, edit):
        after = said_by_torch(loaded, loaded.model, prompts)
    print("| base | behavior, base | behavior, edited | divergence, base | divergence, edited |")
    print("|---|---|---|---|---|")
    print(f"| transformers f32, edit in memory | {rate(base):.1%} | {rate(after):.1%} | | |")
    for name, quantized, adapted in quantized_bases(loaded, edit, prompts):
        print(
            f"| {name} | {rate(quantized):.1%} | {rate(adapted):.1%} "
            f"| {divergence(base, quantized):.5f} | {divergence(after, adapted):.5f} |"
        )
    print(f"\nthe edit itself: {divergence(base, after):.3f} nats")


if __name__ == "__main__":
    main()
