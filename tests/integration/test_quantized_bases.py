"""An edit made from full precision, as an adapter on quantized bases: the behavior measured again.

Run with -s to see the rates.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import transformers
from test_gguf import a_toxicity_edit

from llama_cpp import LlamaCpp, write_gguf_model
from modelsurgery import (
    Edit,
    LanguageModel,
    edited,
    load_model,
    write_gguf_adapter,
    write_peft_adapter,
)
from modelsurgery.data import demo
from modelsurgery.data.behaviors import describe_behavior, load_behavior
from modelsurgery.evaluation.judges import judge_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:TorchaoLoraLinear was instantiated"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
    pytest.mark.filterwarnings("ignore:<enum"),
]
PROMPTS = 300
TOKENS = 24
# Two standard errors of a rate of 40 % over 300 prompts.
NOISE = 0.057
# What any base keeps at least of the change. In four bits the base moves by itself: 62.7 % becomes
# 58.3 % in llama.cpp's Q4_0 and 68.3 % in torchao's int4; edited, 6.3 % becomes 4.7 and 3.0 %.
KEPT = 0.9


@pytest.fixture(scope="module")
def model(demo_path: Path) -> LanguageModel:
    return load_model(demo_path)


@pytest.fixture(scope="module")
def edit(model: LanguageModel) -> Edit:
    return a_toxicity_edit(model, 2, 4.0)


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return list(demo.prompts("toxicity", "test", PROMPTS, 0))


@pytest.fixture(scope="module")
def rate(prompts: list[str]) -> Callable[[Sequence[str]], float]:
    behavior = load_behavior(describe_behavior("toxicity"), is_demo=True, prompt_count=PROMPTS)
    judge = judge_for(behavior)
    return lambda texts: judge(prompts, texts).count("behavior") / len(prompts)


def greedy(loaded: LanguageModel, model: torch.nn.Module, prompts: Sequence[str]) -> list[str]:
    batch = loaded.tokenize(list(prompts), side="left")
    with torch.inference_mode():
        whole = model.generate(**batch, max_new_tokens=TOKENS, do_sample=False)  # type: ignore[operator]
    new = whole[:, batch["input_ids"].shape[1] :]
    texts: list[str] = loaded.tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


@pytest.fixture(scope="module")
def full(
    model: LanguageModel, edit: Edit, prompts: list[str], rate: Callable[[Sequence[str]], float]
) -> tuple[float, float]:
    """Rates of base and edited model in full precision."""
    base = rate(greedy(model, model.model, prompts))
    with edited(model.model, edit):
        after = rate(greedy(model, model.model, prompts))
    print(f"\nfull precision: base {base:.1%}, edited {after:.1%}")
    assert after < base - 2 * NOISE
    return base, after


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_0"])
def test_llama_cpp_on_a_quantized_base(
    kind: str,
    demo_path: Path,
    model: LanguageModel,
    edit: Edit,
    prompts: list[str],
    rate: Callable[[Sequence[str]], float],
    full: tuple[float, float],
    tmp_path: Path,
) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (pip install xllamacpp)")
    base = write_gguf_model(demo_path, tmp_path / "base.gguf", kind)
    adapter = write_gguf_adapter(model.checkpoint, [edit], tmp_path / "adapter.gguf").path
    rates = []
    for adapters in ([], [(adapter, 1.0)]):
        engine = LlamaCpp(base, adapters)
        ids = [model.tokenizer(prompt)["input_ids"] for prompt in prompts]
        rates.append(rate([engine.continued(one, TOKENS)[0] for one in ids]))
    print(f"\nllama.cpp {kind}: base {rates[0]:.1%}, edited {rates[1]:.1%}")
    assert rates[0] - rates[1] > KEPT * (full[0] - full[1])
    assert abs(rates[0] - full[0]) < NOISE
    assert abs(rates[1] - full[1]) < NOISE


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_peft_on_a_torchao_base(
    kind: str,
    demo_path: Path,
    model: LanguageModel,
    edit: Edit,
    prompts: list[str],
    rate: Callable[[Sequence[str]], float],
    full: tuple[float, float],
    tmp_path: Path,
) -> None:
    peft = pytest.importorskip("peft")
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    write_peft_adapter(model.checkpoint, [edit], tmp_path / "adapter")
    quantized = transformers.AutoModelForCausalLM.from_pretrained(demo_path, dtype=torch.float32)
    groups = torchao.PerGroup(32)
    config = {
        "int8": torchao.Int8WeightOnlyConfig(),
        # Int4WeightOnlyConfig needs kernels of another package (mslk); this one runs anywhere.
        "int4": torchao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=groups),
    }[kind]
    torchao.quantize_(quantized, config)
    base = rate(greedy(model, quantized, prompts))
    adapted = peft.PeftModel.from_pretrained(quantized, tmp_path / "adapter")
    after = rate(greedy(model, adapted, prompts))
    print(f"\ntorchao {kind}: base {base:.1%}, edited {after:.1%}")
    assert base - after > KEPT * (full[0] - full[1])
    if kind == "int8":  # int4 moves the base by 5.6 points, too near to NOISE to be a test
        assert abs(base - full[0]) < NOISE
        assert abs(after - full[1]) < NOISE
