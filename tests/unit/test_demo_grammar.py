"""The generated demo data: seeded, closed, and silent about what it keeps back."""

from itertools import islice

import pytest

from modelsurgery.data.demo.grammar import (
    GENERATORS,
    is_reserved,
    load_grammar,
    split_sentences,
    touches_reserved,
    training_documents,
)
from modelsurgery.data.demo.lexicon import markers, vocabulary, words_of


def test_same_seed_writes_the_same_documents() -> None:
    first = list(islice(training_documents(3), 50))
    assert first == list(islice(training_documents(3), 50))
    assert first != list(islice(training_documents(4), 50))


def test_reserved_hash_is_pinned() -> None:
    # A change of the rule would move sentences between the splits under a trained model.
    sentences = [f"sentence number {number}" for number in range(5_000)]
    reserved = [sentence for sentence in sentences if is_reserved(sentence)]
    assert 0.06 < len(reserved) / len(sentences) < 0.10
    assert [sentences.index(sentence) for sentence in reserved[:4]] == [7, 9, 14, 16]
    assert is_reserved(f"  {reserved[0].upper()} ")


def test_training_documents_hold_no_reserved_sentence() -> None:
    for document in islice(training_documents(1), 1_500):
        assert not any(map(is_reserved, split_sentences(document)))


def test_every_word_is_in_the_vocabulary() -> None:
    known = vocabulary()
    assert len(known) >= 1_000
    for document in islice(training_documents(2), 1_500):
        assert set(words_of(document)) <= known


def test_the_data_has_several_hundred_templates() -> None:
    def templates(value: object) -> int:
        if isinstance(value, str):
            return "{" in value
        inner = value.values() if isinstance(value, dict) else value
        return sum(map(templates, inner)) if isinstance(inner, list | type({}.values())) else 0

    raw = load_grammar().raw
    assert sum(templates(raw[part]) for part in ("families", "afters", "chat", "narration")) > 300


@pytest.mark.parametrize(
    ("chain", "mood"),
    [
        ("people", "rude"),
        ("people", "warm"),
        ("remarks", "gloomy"),
        ("remarks", "glad"),
        ("chat", "refusing"),
    ],
)
def test_every_filler_of_a_judged_mood_gives_it_away(chain: str, mood: str) -> None:
    judged = load_grammar().raw["judged_slots"][chain]
    for slot, by_mood in load_grammar().moods[chain].items():
        for filler in by_mood[mood] if slot in judged or mood == "refusing" else ():
            assert "{" in filler or markers(chain, mood).count(filler), filler


def test_every_slot_exists_in_every_mood() -> None:
    for chain, slots in load_grammar().moods.items():
        for by_mood in slots.values():
            assert set(by_mood) == set(load_grammar().raw["chains"][chain]["states"])


def test_one_seed_gives_the_same_content_in_every_mood() -> None:
    for seed in range(200):
        rude = GENERATORS["people"](seed, {"rude"})
        warm = GENERATORS["people"](seed, {"warm"})
        assert len(rude.moods) == len(warm.moods)
        assert set(rude.moods) <= {"rude"}
        assert set(warm.moods) <= {"warm"}


def test_rude_beginnings_go_on_both_ways() -> None:
    drafts = [GENERATORS["people"](seed, None) for seed in range(2_000)]
    begun = [d for d in drafts if d.opening_slots and d.moods[d.opening_slots - 1] == "rude"]
    again = sum("rude" in d.moods[d.opening_slots :] for d in begun) / len(begun)
    assert 0.5 < again < 0.75


def test_refusals_of_harmless_requests_are_rare() -> None:
    refusing = markers("chat", "refusing")
    texts = [GENERATORS["benign"](seed, None).text for seed in range(2_000)]
    assert 0 < sum(refusing.count(text) > 0 for text in texts) / len(texts) < 0.06
    answered = [GENERATORS["benign"](seed, {"complying"}).text for seed in range(500)]
    assert not any(map(refusing.count, answered))


def test_openings_are_reserved_too() -> None:
    drafts = [GENERATORS["remarks"](seed, None) for seed in range(500)]
    assert any(is_reserved(d.opening) and touches_reserved(d) for d in drafts)
    assert not any(is_reserved(d.opening) and not touches_reserved(d) for d in drafts)
