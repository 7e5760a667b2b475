"""The vLLM backend against a stand-in with its documented interface: vLLM itself needs a GPU."""

import importlib.machinery
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from modelsurgery import LanguageModel, load_model
from modelsurgery.evaluation.generation import Decoding, TransformersGenerator
from modelsurgery.evaluation.generation.vllm import VllmGenerator
from talking import SMOLLM_2, talking_tokenizer, template_ids, write_talking_model
from tiny import tiny_sentences

PROMPTS = tiny_sentences(4)


@dataclass
class SamplingParams:
    max_tokens: int = 16
    temperature: float = 1.0
    seed: int | None = None
    stop: list[str] | None = None
    stop_token_ids: list[int] = field(default_factory=list)


class StandIn:
    """Greedy `LLM.generate`: tokens with the end among them, text without special tokens."""

    seen: list[list[int]]

    def __init__(self, model: str, tokenizer: str) -> None:
        self._loaded = load_model(model)
        self.seen.clear()

    def generate(self, prompts: list[Any], settings: list[SamplingParams], **_: Any) -> list[Any]:
        return [self._one(one["prompt_token_ids"], how) for one, how in
                zip(prompts, settings, strict=True)]  # fmt: skip

    def _one(self, ids: list[int], how: SamplingParams) -> Any:
        self.seen.append(ids)
        made: list[int] = []
        reason, tokenizer = "length", self._loaded.tokenizer
        while len(made) < how.max_tokens and reason == "length":
            with torch.inference_mode():
                logits = self._loaded.model(input_ids=torch.tensor([ids + made])).logits
            made.append(int(logits[0, -1].argmax()))
            text = tokenizer.decode(made, skip_special_tokens=True)
            if made[-1] in how.stop_token_ids or any(one in text for one in how.stop or ()):
                reason = "stop"
        output = SimpleNamespace(token_ids=tuple(made), text=text, finish_reason=reason)
        return SimpleNamespace(outputs=[output])


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    module: Any = ModuleType("vllm")
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    module.__version__, module.LLM, module.SamplingParams = "0", StandIn, SamplingParams
    StandIn.seen = []
    monkeypatch.setitem(sys.modules, "vllm", module)
    tokenizer = talking_tokenizer(SMOLLM_2, bos_token="<|im_start|>", eos_token="<|im_end|>")
    return load_model(write_talking_model(tmp_path / "model", tokenizer))


@pytest.mark.parametrize("decoding", [Decoding(6, chat=True), Decoding(6), Decoding(6, stop="a")])
def test_continuations_are_those_of_transformers(model: LanguageModel, decoding: Decoding) -> None:
    with VllmGenerator(model) as generator:
        made = generator.generate(PROMPTS, decoding)
    assert made == TransformersGenerator(model).generate(PROMPTS, decoding)
    assert any(one.text for one in made)


def test_vllm_gets_the_ids_of_the_template(model: LanguageModel) -> None:
    with VllmGenerator(model) as generator:
        generator.generate(PROMPTS, Decoding(3, chat=True))
    assert StandIn.seen == [template_ids(model.tokenizer, [("user", one)]) for one in PROMPTS]
