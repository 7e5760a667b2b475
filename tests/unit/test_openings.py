"""Texts that are measured begin as the tokenizer begins a text, wherever they are cut."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from families import random_edit
from modelsurgery import LanguageModel, extract_hidden_states, load_model
from modelsurgery.evaluation.capability.windows import compare_perplexity
from modelsurgery.evaluation.language_modelling import compare_language_modelling, greedy_answers
from modelsurgery.evaluation.screening import Screen
from talking import talking_tokenizer, write_talking_model
from tiny import tiny_sentences, write_tiny_model

TEXT = " ".join(tiny_sentences(40))
WIDTH = 16
OPENINGS = {"none": (), "bos": ("<s>",), "two": ("<|im_start|>", "<s>")}


def talking_model(directory: Path, **special: Any) -> LanguageModel:
    return load_model(write_talking_model(directory / "model", talking_tokenizer(None, **special)))


@pytest.mark.parametrize("opening", OPENINGS.values(), ids=OPENINGS)
@pytest.mark.parametrize("closing", [(), ("</s>",)], ids=["open", "closed"])
def test_every_window_begins_with_the_opening_which_is_not_predicted(
    opening: tuple[str, ...], closing: tuple[str, ...], tmp_path: Path
) -> None:
    model = talking_model(tmp_path, opening=opening, closing=closing)
    begin = model.tokenizer.convert_tokens_to_ids(list(opening))
    ids = model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    own, first = WIDTH - len(begin), max(1, len(begin))
    losses: list[float] = []
    for start in range(0, len(ids), own):
        window = torch.tensor([begin + ids[start : start + own]])
        with torch.inference_mode():
            table = model.model(input_ids=window).logits[0, :-1].double().log_softmax(-1)
        chosen = -table[torch.arange(window.shape[1] - 1), window[0, 1:]]
        losses += chosen[first - 1 :].tolist()
    found = compare_perplexity(model, TEXT, [], window_tokens=WIDTH)
    assert found.tokens == len(losses) == len(ids) - (0 if opening else found.windows)
    assert found.windows == math.ceil(len(ids) / own)
    assert found.base == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)


def test_an_end_that_the_tokenizer_appends_is_neither_read_nor_predicted(tmp_path: Path) -> None:
    plain = talking_model(tmp_path / "plain", opening=["<s>"])
    closing = talking_model(tmp_path / "closing", opening=["<s>"], closing=["</s>"])
    edit = random_edit(plain.checkpoint.directory).scaled(20)
    texts, facts = tiny_sentences(12), [(one, "the cat") for one in tiny_sentences(6, seed=1)]
    kinds = texts[:4], texts[4:8], texts[8:], facts
    effects = [Screen(model, *kinds).measure([edit]) for model in (plain, closing)]
    assert effects[0] == effects[1]
    compared = [compare_language_modelling(model, texts, [edit]) for model in (plain, closing)]
    assert compared[0] == compared[1]
    states = [extract_hidden_states(model, texts, [3]).by_layer[3] for model in (plain, closing)]
    assert torch.equal(*states)


def test_a_greedy_answer_is_found_whatever_the_tokenizer_appends(tmp_path: Path) -> None:
    model = talking_model(tmp_path, opening=["<s>"], closing=["</s>"])
    pairs, expected = [], []
    for number, prompt in enumerate(tiny_sentences(8)):
        ids = torch.tensor([[1, *model.tokenizer(prompt, add_special_tokens=False)["input_ids"]]])
        with torch.inference_mode():
            best = int(model.model(input_ids=ids).logits[0, -1].argmax())
        word = model.tokenizer.convert_ids_to_tokens(best) if best < 64 else "the"
        pairs.append((prompt, f" {word}" if number % 2 else " cat"))
        expected.append(model.tokenizer.convert_tokens_to_ids(pairs[-1][1].strip()) == best)
    assert greedy_answers(model, pairs) == expected
    assert set(expected) == {True, False}


@pytest.mark.parametrize("family", ["gpt2", "opt", "gpt_neo"])
def test_texts_beyond_the_models_positions_are_cut_with_a_word(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(write_tiny_model(tmp_path / family, family, max_position_embeddings=32))
    long = " ".join(tiny_sentences(12))
    with caplog.at_level(logging.WARNING):
        states = extract_hidden_states(model, [long], [1]).by_layer[1]
        compared = compare_language_modelling(model, [long], [])
    assert "truncated to 32, the model's context" in caplog.text
    assert compared.tokens == 31
    words = " ".join(long.split()[:32])
    assert torch.equal(states, extract_hidden_states(model, [words], [1]).by_layer[1])
    asked = [(long, " cat"), (" ".join(long.split()[-31:]), " cat")]
    assert len(set(greedy_answers(model, asked))) == 1
    Screen(model, [long], [long], [long], [(long, "cat")])
