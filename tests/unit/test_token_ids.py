"""Ids that a model reads: those of its chat template, or of a plain text and what begins it."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from modelsurgery import LanguageModel, load_model
from modelsurgery.data.texts import LabeledText
from modelsurgery.model.activations.texts import tokenize_labeled
from modelsurgery.model.chat_template import ChatTemplate, Rendered
from modelsurgery.model.token_ids import reply_ids, token_ids, without_beginning
from talking import LLAMA, QWEN, SMOLLM_2, talking_tokenizer, template_ids, write_talking_model

QUESTION = "is the dog happy"
EXCHANGE = LabeledText(QUESTION, 1, reply="the dog is very happy")
KINDS: dict[str, dict[str, Any]] = {
    "bos is the mark of a turn": {
        "template": SMOLLM_2, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
    },
    "tokenizer begins with bos, template too": {"template": LLAMA, "opening": ["<s>"]},
    "tokenizer begins with bos, template does not": {"template": QWEN, "opening": ["<s>"]},
    "tokenizer begins with nothing, template with bos": {"template": LLAMA},
    "tokenizer ends with eos": {"template": LLAMA, "opening": ["<s>"], "closing": ["</s>"]},
    "tokenizer ends with eos only": {"template": QWEN, "closing": ["</s>"]},
}  # fmt: skip


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return talking_tokenizer(**request.param)


def test_a_prompt_has_the_ids_of_its_template(tokenizer: Any) -> None:
    turns = [("user", QUESTION), ("assistant", "the"), ("user", "and the cat")]
    rendered = ChatTemplate(tokenizer).prompt(turns)
    assert token_ids(tokenizer, [rendered]) == [template_ids(tokenizer, turns)]


def test_an_exchange_has_the_ids_of_its_template_and_the_reply_begins_behind_the_prompt(
    tokenizer: Any,
) -> None:
    found = reply_ids(ChatTemplate(tokenizer), EXCHANGE)
    turns = [("user", QUESTION), ("assistant", EXCHANGE.reply or "")]
    assert list(found.ids) == template_ids(tokenizer, turns, add_generation_prompt=False)
    reply = tokenizer(EXCHANGE.reply, add_special_tokens=False)["input_ids"]
    assert list(found.ids[found.start :][: len(reply)]) == reply


def test_a_plain_text_begins_as_the_tokenizer_begins_it_and_has_no_end(tokenizer: Any) -> None:
    (ids,) = token_ids(tokenizer, [QUESTION])
    whole = tokenizer(QUESTION)["input_ids"]
    closed = whole[-1] == tokenizer.convert_tokens_to_ids("</s>")
    assert ids == (whole[:-1] if closed else whole)
    plain = reply_ids(ChatTemplate(tokenizer), LabeledText(QUESTION, 0))
    bare = tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
    assert list(plain.ids) == ids
    assert list(plain.ids[plain.start :]) == bare


def test_without_a_template_the_reply_follows_on_a_line_of_its_own() -> None:
    tokenizer = talking_tokenizer(None, opening=["<s>"])
    found = reply_ids(ChatTemplate(tokenizer), EXCHANGE)
    assert list(found.ids) == tokenizer(f"{QUESTION}\n{EXCHANGE.reply}")["input_ids"]
    assert tokenizer.decode(list(found.ids[found.start :])) == EXCHANGE.reply


def test_a_reply_begins_where_a_prompt_opens_a_thought_that_the_exchange_has_not() -> None:
    """Qwen's prompt ends with an empty thought, which its exchange does not have."""
    tokenizer = talking_tokenizer(QWEN)
    found = reply_ids(ChatTemplate(tokenizer), EXCHANGE)
    before = tokenizer.decode(list(found.ids[: found.start]))
    assert "<think>" not in before
    assert tokenizer.decode(list(found.ids[found.start :])).startswith("the dog is very")


def test_a_loss_counts_the_reply_alone_or_all_behind_the_opening(tmp_path: Path) -> None:
    two = talking_tokenizer(SMOLLM_2, opening=["<|im_start|>", "<s>"])
    model = load_model(write_talking_model(tmp_path / "model", two))
    exchange, plain = tokenize_labeled(model, [EXCHANGE, LabeledText(QUESTION, 0)])
    assert exchange.ids == model.reply_ids(EXCHANGE).ids
    assert two.decode(list(exchange.ids[exchange.start :])).startswith("the dog is very happy")
    assert two.decode(list(plain.ids[plain.start :])) == QUESTION
    long = LabeledText(" ".join([QUESTION] * 100), 0)
    (cut,) = tokenize_labeled(model, [long])
    assert cut.ids == tuple(model.reply_ids(long).ids[:100])


def test_a_text_that_lost_its_beginning_keeps_its_opening() -> None:
    assert without_beginning([1, 5, 6, 7, 8], 3, [1]) == [1, 7, 8]
    assert without_beginning([4, 5, 6, 7, 8], 3, [1]) == [6, 7, 8]
    assert without_beginning([1, 5], 3, [1]) == [1, 5]
    assert without_beginning([1, 5, 6], 1, [1]) == [6]


def test_a_rendered_text_is_padded_with_the_plain_ones(tiny_llama: Path) -> None:
    model = load_model(tiny_llama)
    batch = model.tokenize([Rendered("the cat"), "a dog sits"], side="left")
    assert batch["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]
    expected = model.tokenizer(["the cat", "a dog sits"])["input_ids"]
    assert batch["input_ids"][0, 1:].tolist() == expected[0]
    assert batch["input_ids"].dtype == torch.int64


@pytest.fixture(scope="module")
def smollm() -> LanguageModel:
    directory = os.environ.get("SURGERY_TEST_SMOLLM2")
    if directory is None:
        pytest.skip("needs SmolLM2-135M-Instruct; SURGERY_TEST_SMOLLM2 names its directory")
    return load_model(directory)


def test_smollm_2_reads_its_own_template(smollm: LanguageModel) -> None:
    turns = [("user", "What is the capital of France?")]
    expected = template_ids(smollm.tokenizer, turns)
    assert expected[0] == smollm.tokenizer.bos_token_id
    assert smollm.token_ids([smollm.template.prompt(turns)]) == [expected]
