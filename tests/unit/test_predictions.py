"""Predictions are those of the whole logits, and never more than a part of those is in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from families import random_edit
from modelsurgery import Edit, LanguageModel, edited, load_model
from modelsurgery.data.texts import LabeledText
from modelsurgery.evaluation import predictions
from modelsurgery.evaluation.capability import TaskResult, measure_capability
from modelsurgery.evaluation.capability.windows import compare_perplexity
from modelsurgery.evaluation.generation.sampling import UniformSampling
from modelsurgery.evaluation.language_modelling import (
    compare_language_modelling,
    greedy_answers,
    plain_ids,
    sum_over_texts,
)
from modelsurgery.evaluation.predictions import LOGITS_AT_A_TIME, last_logits, predict
from modelsurgery.evaluation.screening import Screen
from modelsurgery.model.halves import Halves
from own_tasks import write_own_tasks
from tiny import tiny_sentences, tiny_tokenizer, write_tiny_model

VOCABULARY = 1 << 16
TOKENS = 700  # of one text: 45 million logits, nearly three times what may be there at a time


class Largest(TorchDispatchMode):
    """Sees every tensor that torch makes, and keeps the size of the largest."""

    def __init__(self) -> None:
        super().__init__()
        self.values = self.doubles = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not function.is_view:
            self.values = max(self.values, made.numel())
            if made.dtype == torch.float64:
                self.doubles = max(self.doubles, made.numel())
        return made


@contextmanager
def nothing_large() -> Iterator[None]:
    with Largest() as seen:
        yield
    assert VOCABULARY <= seen.values <= LOGITS_AT_A_TIME


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A tiny model with a large vocabulary, of which the tokenizer uses the first words."""
    directory = tmp_path_factory.mktemp("wide")
    write_tiny_model(directory, vocab_size=VOCABULARY, max_position_embeddings=4096)
    return load_model(directory)


@pytest.fixture(scope="module")
def edit(wide: LanguageModel) -> Edit:
    return random_edit(wide.checkpoint.directory)


@pytest.fixture(scope="module")
def long_text() -> str:
    return " ".join(" ".join(tiny_sentences(400)).split()[:TOKENS])


def test_perplexity_of_long_texts_is_measured_in_bounded_memory(
    wide: LanguageModel, edit: Edit, long_text: str
) -> None:
    with nothing_large():
        found = compare_language_modelling(wide, [long_text] * 3, [edit], max_tokens=4096)
    assert found.tokens > 3 * (TOKENS - 2)


def test_windows_are_measured_in_bounded_memory(
    wide: LanguageModel, edit: Edit, long_text: str
) -> None:
    with nothing_large():
        found = compare_perplexity(wide, long_text, [edit], window_tokens=TOKENS)
    assert found.tokens == TOKENS - 1


def test_screening_and_answers_take_bounded_memory(
    wide: LanguageModel, edit: Edit, long_text: str
) -> None:
    with nothing_large():
        screen = Screen(wide, [long_text], [], [long_text], [(long_text, "cat")])
        screen.measure([edit, edit.scaled(0.5)])
    with nothing_large():
        greedy_answers(wide, [("the cat", f" {long_text}")], [edit])


def test_choices_of_lm_eval_take_bounded_memory_and_follow_the_likelihoods(
    wide: LanguageModel, long_text: str, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra `eval`")
    model = replace(wide, tokenizer=tiny_tokenizer("A", "B", "C", "D"))
    letters = model.tokenizer.convert_tokens_to_ids(list("ABCD"))
    prompts, best = [long_text, *tiny_sentences(6)], []
    for prompt in prompts:
        ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
        with torch.inference_mode():
            best.append("ABCD"[int(model.model(input_ids=ids).logits[0, -1, letters].argmax())])
    assert len(set(best)) > 1
    aims = [*best[:4], *("B" if one == "A" else "A" for one in best[4:])]
    write_own_tasks(tmp_path, "letters", list(zip(prompts, aims, strict=True)))
    with nothing_large():
        found = measure_capability(model, [], ["letters"], include=tmp_path)["letters"]
    assert isinstance(found, TaskResult)
    assert [item.base for item in found.items] == [1.0] * 4 + [0.0] * 3


def test_sampling_takes_bounded_memory() -> None:
    rows = 2 * LOGITS_AT_A_TIME // VOCABULARY
    scores = torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(0))
    prompts = [str(row) for row in range(rows)]
    alone = [
        UniformSampling([(prompt, 0)], 0.7, 1)(torch.zeros(1, 1), scores[row : row + 1]).argmax(-1)
        for row, prompt in enumerate(prompts[:20])
    ]
    sampling = UniformSampling([(prompt, 0) for prompt in prompts], 0.7, 1)
    with Largest() as seen:
        chosen = sampling(torch.zeros(rows, 1), scores)
    assert chosen.argmax(-1)[:20].tolist() == torch.cat(alone).tolist()
    assert seen.values <= scores.numel()  # the answer itself, in f32; sums are in f64
    assert seen.doubles <= LOGITS_AT_A_TIME // 2


def test_parts_of_the_logits_give_what_all_of_them_give(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_llama)
    edits = [random_edit(tiny_llama), random_edit(tiny_llama, seed=1)]
    sides = [(), *((one,) for one in edits)]
    batch = model.tokenize(tiny_sentences(5))
    mask = batch["attention_mask"][:, 1:].bool()
    targets = batch["input_ids"][:, 1:][mask]
    tables = []
    with torch.inference_mode():
        for side in sides:
            with edited(model.model, *side):
                logits = model.model(**batch).logits[:, :-1][mask]
            tables.append(logits.double().log_softmax(-1))
        for limit in (1, 500, LOGITS_AT_A_TIME):
            monkeypatch.setattr(predictions, "LOGITS_AT_A_TIME", limit)
            for together in (False, True):
                found = predict(model.model, batch, sides, together=together)
                for row, table in enumerate(tables):
                    losses = -table.gather(-1, targets[:, None])[:, 0]
                    apart = (tables[0].exp() * (tables[0] - table)).sum(-1)
                    torch.testing.assert_close(found.losses[row], losses, rtol=1e-5, atol=1e-6)
                    torch.testing.assert_close(found.divergences[row], apart, rtol=1e-3, atol=1e-6)
                    assert found.hits[row].equal(table.argmax(-1) == targets)
                assert found.texts.equal(mask.nonzero()[:, 0])
                assert float(found.divergences[1].min()) > 0


def test_only_tokens_that_are_wanted_are_predicted(tiny_llama: Path) -> None:
    model = load_model(tiny_llama)
    batch = model.tokenize(tiny_sentences(3))
    wanted = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    wanted[0, 2], wanted[2, 1] = True, True
    with torch.inference_mode():
        found = predict(model.model, batch, [()], wanted=wanted)
        whole = predict(model.model, batch, [()])
        nothing = predict(model.model, batch, [()], wanted=torch.zeros_like(wanted))
    second = int((whole.texts < 2).sum())
    torch.testing.assert_close(found.losses[0], whole.losses[0, [1, second]])
    assert found.texts.tolist() == [0, 2]
    assert nothing.losses.shape == (1, 0)


def test_a_model_is_left_as_it_was_even_when_a_pass_fails(tiny_llama: Path) -> None:
    model = load_model(tiny_llama)
    batch = model.tokenize(tiny_sentences(2))
    broken = {**batch, "input_ids": batch["input_ids"] + 10**6}
    with torch.inference_mode():
        before = model.model(**batch).logits
        with pytest.raises(IndexError):
            predict(model.model, broken, [()])
        assert model.model(**batch).logits.equal(before)
    assert "forward" not in vars(model.decoder)


def test_last_logits_are_those_of_the_last_positions(tiny_llama: Path) -> None:
    model = load_model(tiny_llama)
    batch = model.tokenize([" ".join(tiny_sentences(1)[0].split()[:3])] * 2)
    with torch.inference_mode():
        whole = model.model(**batch).logits
        torch.testing.assert_close(last_logits(model.model, batch, 2), whole[:, -2:])


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts decoders read in each pass."""
    found: list[int] = []
    read = Halves.last_states

    def counted(halves: Halves, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        found.append(len(batch["input_ids"]))
        return read(halves, batch)

    monkeypatch.setattr(Halves, "last_states", counted)
    return found


def test_states_that_are_known_are_not_read_again(tmp_path: Path, rows: list[int]) -> None:
    model = load_model(write_tiny_model(tmp_path / "m", "llama"))
    sides: list[tuple[Edit, ...]] = [(), (random_edit(tmp_path / "m"),)]
    texts = plain_ids(model, tiny_sentences(30))
    known: dict[int, torch.Tensor] = {}
    expected = sum_over_texts(model, texts, sides, together=True)
    sum_over_texts(model, texts, [()], known=known)
    assert sorted(known) == list(range(len(texts)))
    rows.clear()
    found = sum_over_texts(model, texts, sides, together=True, known=known)
    assert sum(rows) == len(texts)
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.divergences, expected.divergences, rtol=1e-4, atol=1e-6)
    assert found.hits.equal(expected.hits)
    assert found.divergences[1].min() > 0


def test_a_screen_reads_the_base_model_once(tmp_path: Path, rows: list[int]) -> None:
    model = load_model(write_tiny_model(tmp_path / "m", "llama"))
    clean = tiny_sentences(30)
    own = [LabeledText(text, 0, reply="good") for text in tiny_sentences(5, seed=2)]
    screen = Screen(model, (), (), clean, own=own)
    rows.clear()
    (effect,) = screen.measure([random_edit(tmp_path / "m")])
    assert sum(rows) == len(clean) + len(own)
    assert effect.divergence > 0
    assert effect.own > 0
