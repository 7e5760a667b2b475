import json
import multiprocessing
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from modelsurgery import Edit, LanguageModel, load_model, make_edit, score_rows, select_region
from modelsurgery.errors import EvaluationError, StorageError
from modelsurgery.evaluation.generation import Continuation, Decoding, TransformersGenerator
from modelsurgery.evaluation.generation.sampling import UniformSampling, uniform_numbers
from modelsurgery.evaluation.quality import compare_quality, measure_quality, repetition_of
from modelsurgery.evaluation.store import Store, judged
from tiny import tiny_sentences

PROMPTS = [f"{sentence} {'the cat ' * (number % 4)}".strip()
           for number, sentence in enumerate(tiny_sentences(24))]  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> LanguageModel:
    return load_model(tiny_llama)


@pytest.fixture(scope="module")
def strong_edit(model: LanguageModel) -> Edit:
    direction = np.random.default_rng(1).standard_normal(32).astype(np.float32)
    scores = score_rows(model.checkpoint, model.gates, direction[None])
    return make_edit(select_region(scores, 60), direction, strength=20.0)


def greedily(model: LanguageModel, prompt: str, count: int) -> str:
    """Greedy decoding by hand, one forward pass a token."""
    ids = model.tokenizer(prompt, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    with torch.inference_mode():
        for _ in range(count):
            token = model.model(input_ids=ids).logits[0, -1].argmax()
            if int(token) == model.tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, token.reshape(1, 1)], dim=1)
    return str(model.tokenizer.decode(ids[0, start:], skip_special_tokens=True))


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_greedy_continuations_are_those_of_decoding_by_hand(
    model: LanguageModel, batch_tokens: int
) -> None:
    made = TransformersGenerator(model, batch_tokens=batch_tokens).generate(PROMPTS, Decoding(6))
    assert [one.text for one in made] == [greedily(model, prompt, 6) for prompt in PROMPTS]


def test_a_sample_depends_on_prompt_and_seed_and_not_on_the_batch(model: LanguageModel) -> None:
    generator = TransformersGenerator(model)
    decoding = Decoding(8, seed=3)
    together = generator.generate(PROMPTS, decoding)
    assert together == tuple(generator.generate([prompt], decoding)[0] for prompt in PROMPTS)
    assert together == tuple(reversed(generator.generate(PROMPTS[::-1], decoding)))
    assert together != generator.generate(PROMPTS, Decoding(8, seed=4))


def test_decodings_share_batches_and_give_what_each_gives_alone(
    model: LanguageModel, strong_edit: Edit, tmp_path: Path
) -> None:
    """Samples do, of all lengths of prompts; what is decoded otherwise has batches of its own."""
    decodings = [*(Decoding(6, seed=seed) for seed in range(3)), Decoding(6), Decoding(9, seed=0)]
    alone, together = TransformersGenerator(model), TransformersGenerator(model)
    sides = [(), (strong_edit,)]
    expected = tuple(
        tuple(alone.generate(PROMPTS, one, edits) for one in decodings) for edits in sides
    )
    sizes: list[int] = []
    forward = model.model.register_forward_pre_hook(
        lambda _, __, inputs: sizes.append(len(inputs["input_ids"])), with_kwargs=True
    )
    with forward:
        assert together.generate_sides(PROMPTS, decodings, sides) == expected
    assert set(sizes) == {3 * len(PROMPTS), len(PROMPTS)}
    assert len(set(expected[0][:3])) == 3
    with Store(tmp_path / "store.sqlite") as store:
        for one in decodings:
            TransformersGenerator(model, store=store).generate(PROMPTS, one)
        again = TransformersGenerator(model, store=store)
        assert again.generate_sides(PROMPTS, decodings, sides[:1]) == expected[:1]
        assert again.speed.decode_tokens == 0


def test_sampling_follows_the_distribution_of_the_model() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, -torch.inf])
    rows = [(str(number), 0) for number in range(4000)]
    sampled = UniformSampling(rows, temperature=0.5, steps=1)
    chosen = sampled(torch.zeros(4000, 1), logits.expand(4000, 5).clone()).argmax(-1)
    counts = Counter(chosen.tolist())
    expected = (logits / 0.5).softmax(-1)[:4].double() * 4000
    assert counts[4] == 0
    observed = [counts[token] for token in range(4)]
    assert chisquare(observed, expected * (4000 / expected.sum())).pvalue > 0.01


def test_uniform_numbers_are_uniform_and_repeat() -> None:
    numbers = np.concatenate([uniform_numbers(str(k), 0, 50) for k in range(100)])
    assert chisquare(np.histogram(numbers, bins=20, range=(0, 1))[0]).pvalue > 0.01
    assert (uniform_numbers("a", 1, 5) == uniform_numbers("a", 1, 9)[:5]).all()


def test_torch_random_state_is_left_alone(model: LanguageModel) -> None:
    before = torch.get_rng_state()
    TransformersGenerator(model).generate(PROMPTS[:3], Decoding(4, seed=1))
    assert torch.equal(before, torch.get_rng_state())


def test_an_edit_changes_what_is_written_and_is_gone_afterwards(
    model: LanguageModel, strong_edit: Edit
) -> None:
    generator = TransformersGenerator(model)
    base = generator.generate(PROMPTS, Decoding(8, seed=0))
    assert generator.generate(PROMPTS, Decoding(8, seed=0), [strong_edit]) != base
    assert generator.generate(PROMPTS, Decoding(8, seed=0)) == base
    # With the same random numbers an edit of no strength changes nothing at all.
    assert generator.generate(PROMPTS, Decoding(8, seed=0), [strong_edit.scaled(0.0)]) == base


def test_a_continuation_ends_at_the_stop_text(model: LanguageModel) -> None:
    generator = TransformersGenerator(model)
    whole = generator.generate(PROMPTS, Decoding(20, seed=0))
    stop = Counter(word for one in whole for word in one.text.split()).most_common(1)[0][0]
    stopped = generator.generate(PROMPTS, Decoding(20, seed=0, stop=stop))
    assert any(stop in one.text for one in whole)
    for one, other in zip(whole, stopped, strict=True):
        assert other.text == one.text.partition(stop)[0]
        assert other.is_finished == (one.is_finished or stop in one.text)
        assert other.tokens <= one.tokens


def test_speed_counts_prompts_and_new_tokens(model: LanguageModel) -> None:
    generator = TransformersGenerator(model, batch_tokens=200)
    made = generator.generate(PROMPTS, Decoding(5))
    told = generator.speed.to_json()
    lengths = [len(ids) for ids in model.tokenizer(PROMPTS)["input_ids"]]
    assert told["prefill_tokens"] == sum(lengths)
    assert told["decode_tokens"] == sum(one.tokens for one in made)
    assert 0 <= told["padding_share"] < 0.3
    assert told["decode_tokens_per_second"] > 0


class Counting:
    """A judge that counts what it was asked."""

    name, note, version = "counting", "", "1"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, prompts: Any, continuations: Any) -> list[Any]:
        self.asked += continuations
        return ["unjudged" if "?" in one else "behavior" for one in continuations]


def test_nothing_is_generated_or_judged_twice(
    model: LanguageModel, strong_edit: Edit, tmp_path: Path
) -> None:
    with Store(tmp_path / "store.sqlite") as store:
        first = TransformersGenerator(model, store=store)
        made = first.generate(PROMPTS, Decoding(5))
        judge = Counting()
        assert judged(judge, ["p", "p"], ["a", "b?"], store) == ["behavior", "unjudged"]
        assert judged(judge, ["p", "p"], ["a", "b?"], store) == ["behavior", "unjudged"]
        assert judge.asked == ["a", "b?", "b?"]  # what could not be judged is asked again
    with Store(tmp_path / "store.sqlite") as store:
        again = TransformersGenerator(model, store=store)
        assert again.generate(PROMPTS, Decoding(5)) == made
        assert again.speed.decode_tokens == 0
        other = again.generate(PROMPTS, Decoding(5), [strong_edit])
        assert again.speed.decode_tokens > 0
        assert other != made


def test_the_first_of_two_answers_is_kept(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite") as store, Store(tmp_path / "store.sqlite") as second:
        assert (store.is_shared, second.is_shared) == (False, True)
        store.keep_continuations({"k": Continuation("one", 1, True)})
        second.keep_continuations({"k": Continuation("two", 1, True)})
        assert second.continuations(["k", "other"]) == {"k": Continuation("one", 1, True)}


def test_a_damaged_or_later_store_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"no database at all, " * 100)
    with pytest.raises(EvaluationError, match="not a readable store"):
        Store(path)
    path.unlink()
    later = sqlite3.connect(path)
    later.execute("PRAGMA user_version = 99")
    later.close()
    with pytest.raises(EvaluationError, match="a store of version 99"):
        Store(path)


def test_a_store_with_a_wrong_entry_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite") as store:
        store._insert("INSERT INTO continuations VALUES (?, ?)", [("k", json.dumps({"text": 1}))])
        with pytest.raises(EvaluationError, match="not a readable store"):
            store.continuations(["k"])


def test_repetition_is_the_share_of_repeated_grams() -> None:
    assert repetition_of("a b c d e f") == 0
    assert repetition_of("too short") == 0
    assert repetition_of("a b a b a b a b") == pytest.approx(1 - 2 / 5)


def test_quality_tells_a_broken_model_from_a_whole_one() -> None:
    whole = [Continuation("the goose walks to the pond at noon", 8, True)] * 30
    broken = [Continuation("goose " * 20, 20, False), Continuation("", 0, True)] * 15
    assert measure_quality(whole).to_json() == {
        "mean_tokens": 8.0, "unfinished": 0.0, "failed": 0.0, "repetition": 0.0,
    }  # fmt: skip
    change = compare_quality(whole, broken)
    assert change.edited.failed == change.edited.unfinished == 0.5
    assert change.edited.repetition == pytest.approx(1 - 1 / 17)
    assert change.unfinished.verdict == change.failed.verdict == "more"


def _open_together(path: Path, together: Any, failures: Any) -> None:
    together.wait()
    try:
        with Store(path) as store:
            store.keep_verdicts({"a": "behavior"})
    except StorageError as error:
        failures.put(str(error))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_many_may_open_a_new_store_at_the_same_moment(tmp_path: Path) -> None:
    """SQLite does not wait for others while it changes to a journal of writes."""
    context = multiprocessing.get_context("fork")
    failures = context.SimpleQueue()
    for number in range(20):
        shared = (tmp_path / f"{number}.sqlite", context.Barrier(6), failures)
        processes = [context.Process(target=_open_together, args=shared) for _ in range(6)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    assert failures.empty(), failures.get()
