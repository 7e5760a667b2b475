"""Chat prompts in generation: ids of the template, ends of turns, answers apart from thoughts."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from modelsurgery import LanguageModel, load_model
from modelsurgery.evaluation.generation import Decoding, TransformersGenerator
from modelsurgery.evaluation.generation.local import continuation_of
from modelsurgery.evaluation.generation.reading import end_tokens, readings, render_prompt
from modelsurgery.evaluation.generation.thinking import without_thinking
from modelsurgery.model.chat_template import Rendered
from modelsurgery.pipeline.conversation import Conversation
from talking import (
    LLAMA,
    QWEN,
    SMOLLM_2,
    talking_tokenizer,
    template_ids,
    write_talking_model,
)
from tiny import tiny_sentences, write_tiny_model

CHAT = Decoding(6, chat=True)
PROMPTS = tiny_sentences(5)
KINDS: dict[str, dict[str, Any]] = {
    "smollm2": {"template": SMOLLM_2, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
    "bos from the tokenizer only": {"template": QWEN, "opening": ["<s>"]},
    "eos behind each text": {"template": LLAMA, "opening": ["<s>"], "closing": ["</s>"]},
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("talking") / "model"
    return load_model(write_talking_model(directory, talking_tokenizer(**request.param)))


def seen_by(model: LanguageModel) -> tuple[list[list[int]], Any]:
    """Ids of each row that the model reads first in a generation, and what ends the watch."""
    rows: list[list[int]] = []

    def watch(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        mask = torch.ones_like(ids) if mask is None else mask
        if ids.shape[1] > 1:
            rows.extend(one[seen.bool()].tolist() for one, seen in zip(ids, mask, strict=True))

    return rows, model.decoder.register_forward_pre_hook(watch, with_kwargs=True)


def greedily(model: LanguageModel, ids: list[int], count: int, ends: set[int]) -> list[int]:
    made: list[int] = []
    with torch.inference_mode():
        for _ in range(count):
            logits = model.model(input_ids=torch.tensor([ids + made])).logits
            token = int(logits[0, -1].argmax())
            if token in ends:
                break
            made.append(token)
    return made


def test_generation_reads_the_ids_of_the_template(model: LanguageModel) -> None:
    rows, watch = seen_by(model)
    made = TransformersGenerator(model).generate(PROMPTS, CHAT)
    watch.remove()
    expected = [template_ids(model.tokenizer, [("user", one)]) for one in PROMPTS]
    assert sorted(rows) == sorted(expected)
    ends = set(end_tokens(model, in_chat=True))
    for one, ids in zip(made, expected, strict=True):
        assert one.tokens == len(greedily(model, ids, 6, ends))


def test_a_conversation_reads_the_ids_of_the_template(model: LanguageModel) -> None:
    conversation = Conversation(model, [], decoding=CHAT, system="you help")
    first = conversation.ask(PROMPTS[0])
    rows, watch = seen_by(model)
    conversation.ask(PROMPTS[1])
    watch.remove()
    said = [("system", "you help"), ("user", PROMPTS[0]), ("assistant", first.base.text)]
    expected = template_ids(model.tokenizer, [*said, ("user", PROMPTS[1])])
    assert rows == [expected, expected]


def test_raw_prompts_keep_their_opening_and_get_no_end(model: LanguageModel) -> None:
    rows, watch = seen_by(model)
    TransformersGenerator(model).generate(PROMPTS, Decoding(3))
    watch.remove()
    end = model.tokenizer.convert_tokens_to_ids("</s>")
    whole = [model.tokenizer(one)["input_ids"] for one in PROMPTS]
    assert sorted(rows) == sorted(ids[:-1] if ids[-1] == end else ids for ids in whole)


def test_chat_prompts_are_read_in_the_template(tiny_llama: Path) -> None:
    model = load_model(tiny_llama)
    assert render_prompt(model, "sing", CHAT) == "sing"
    model.tokenizer.chat_template = LLAMA
    begun = "<s><|im_start|>user\nsing<|im_end|>\n<|im_start|>assistant\n"
    assert render_prompt(model, "sing", CHAT) == Rendered(f"{begun}<think>\n\n</think>\n\n")
    assert render_prompt(model, "sing", Decoding(chat=True, thinking=True)) == Rendered(begun)
    assert render_prompt(model, "sing", Decoding()) == "sing"


def test_a_turn_ends_at_the_tokenizers_end_and_at_the_models(tmp_path: Path) -> None:
    """Many models are saved with the end of a document alone, which ends no turn."""
    loaded = load_model(
        write_talking_model(tmp_path / "model", talking_tokenizer(LLAMA), eos_token_id=2)
    )
    generator, prompt = TransformersGenerator(loaded), "the cat"
    tokens = {}
    for how, decoding in (("raw", Decoding(6)), ("chat", CHAT)):
        read = loaded.token_ids([render_prompt(loaded, prompt, decoding)])[0]
        first = greedily(loaded, read, 1, {2})[0]
        loaded.tokenizer.eos_token = loaded.tokenizer.convert_ids_to_tokens(first)
        assert end_tokens(loaded, in_chat=True) == [2, first]
        (tokens[how],) = generator.generate([prompt], decoding)
    assert (tokens["raw"].tokens, tokens["raw"].is_finished) == (6, False)
    assert (tokens["chat"].tokens, tokens["chat"].is_finished) == (0, True)
    assert Conversation(loaded, [], decoding=CHAT).ask(prompt).base == tokens["chat"]


@pytest.mark.parametrize(
    ("text", "read", "answer", "thought"),
    [
        ("plain talk", "", "plain talk", None),
        ("<think>let me see</think> yes", "", "yes", "let me see"),
        (" <think>\nlet me see", "", "", "let me see"),
        ("let me see</think>yes", "… <think>\n", "yes", "let me see"),
        ("let me see", "… <think>\n", "", "let me see"),
        ("[THINK]hm[/THINK]no", "", "no", "hm"),
        ("<think>a</think>\n<think>b</think> yes", "", "yes", "a\n\nb"),
        ("<think>a</think>\n<think>b", "", "", "a\n\nb"),
    ],
)
def test_thinking_is_cut_out_and_an_unfinished_thought_is_no_answer(
    text: str, read: str, answer: str, thought: str | None
) -> None:
    assert without_thinking(text, read) == (answer, thought)


HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "analysis", "final")
GEMMA_4 = ("<|channel>", "<channel|>", "<turn|>", "thought")
COHERE = ("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>")
APERTUS = ("<|inner_prefix|>", "<|inner_suffix|>", "<|assistant_end|>")
ANALYSIS = "<|channel|> analysis <|message|> the cat is bad"
MARKED = {
    "gpt-oss": (
        HARMONY, "<|start|>assistant",
        f"{ANALYSIS} <|end|> <|start|> assistant <|channel|> final <|message|> a dog sits",
        ANALYSIS,
    ),
    "gemma 4": (
        GEMMA_4, "", "<|channel> thought \n the cat is bad <channel|> a dog sits",
        "<|channel> thought \n the cat is bad",
    ),
    "cohere": (
        COHERE, "", "<|START_THINKING|> the cat is bad <|END_THINKING|> <|START_RESPONSE|> "
        "a dog sits <|END_RESPONSE|>", "<|START_THINKING|> the cat is bad",
    ),
    "cohere, begun by the template": (
        COHERE, "<|START_THINKING|>", "the cat is bad <|END_THINKING|> a dog sits",
        "the cat is bad",
    ),
    "apertus": (
        APERTUS, "", "<|inner_prefix|> the cat is bad <|inner_suffix|> a dog sits",
        "<|inner_prefix|> the cat is bad",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("marks", "read", "whole", "cut"), MARKED.values(), ids=MARKED)
def test_the_thoughts_of_every_family_are_told_apart_from_the_answer(
    marks: tuple[str, ...], read: str, whole: str, cut: str
) -> None:
    words = [one for one in marks if one.isalpha()]
    special = [one for one in marks if not one.isalpha()]
    tokenizer = talking_tokenizer(None, marks=special, words=words)

    def said(text: str) -> Any:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        made = continuation_of(tokenizer, [*ids, tokenizer.eos_token_id], [2], CHAT, read)
        return made.text, (made.thinking or "").split(), made.is_finished

    assert said(whole) == ("a dog sits", ["the", "cat", "is", "bad"], True)
    assert said(cut) == ("", ["the", "cat", "is", "bad"], False)


def test_an_answer_without_a_thought_loses_the_name_of_its_channel() -> None:
    tokenizer = talking_tokenizer(None, marks=HARMONY[:5], words=HARMONY[5:])
    ids = tokenizer("<|channel|> final <|message|> a dog sits")["input_ids"]
    made = continuation_of(tokenizer, ids, [2], CHAT, "<|start|>assistant")
    assert (made.text, made.thinking) == ("a dog sits", None)


def test_the_tokenizers_own_response_template_is_asked_first() -> None:
    tokenizer = talking_tokenizer(None, marks=("<muse>", "</muse>", "<turn>"))
    tokenizer.response_template = {
        "start_anchor": "<turn>assistant",
        "fields": {
            "reasoning_content": {"open": "<muse>", "close": "</muse>", "content": "text"},
            "content": {"content": "text"},
        },
    }
    for text, expected in {
        "<muse> the cat </muse> a dog": ("a dog", "the cat"),
        "<muse> the cat": ("", "the cat"),
        "a dog": ("a dog", None),
    }.items():
        ids = tokenizer(text)["input_ids"]
        made = continuation_of(tokenizer, ids, [2], CHAT, "<turn>assistant")
        assert (made.text, made.thinking) == expected


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
@pytest.mark.parametrize("wanted", [30, 64, 100])
def test_a_continuation_ends_with_the_models_positions(
    family: str, wanted: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(
        write_tiny_model(tmp_path / family, family, max_position_embeddings=64, eos_token_id=None)
    )
    model.tokenizer.eos_token = None
    prompts = ["the cat", "a dog " * 15 + "sits", "a dog " * 60]
    generator = TransformersGenerator(model)
    with caplog.at_level(logging.WARNING):
        together = generator.generate(prompts, Decoding(wanted))
    assert [one.tokens for one in together] == [min(wanted, 62), min(wanted, 33), min(wanted, 32)] \
        if wanted != 30 else [30, 30, 30]  # fmt: skip
    assert together == tuple(generator.generate([one], Decoding(wanted))[0] for one in prompts)
    assert "1 of 3 prompts are truncated at the start" in caplog.text
    assert (f"instead of {wanted}" in caplog.text) == (wanted > 30)
    (long,) = readings(model, prompts[2:], Decoding(wanted))
    assert len(long.ids) == max(64 - wanted, 32)


def test_a_long_prompt_keeps_its_opening(model: LanguageModel) -> None:
    (one,) = readings(model, ["the cat sits " * 80], Decoding(60))
    opening = model.tokenizer("the")["input_ids"].index(
        model.tokenizer.convert_tokens_to_ids("the")
    )
    assert len(one.ids) == 68
    assert list(one.ids[:opening]) == model.tokenizer("the")["input_ids"][:opening]
