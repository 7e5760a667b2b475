import math
from pathlib import Path

import pytest
import torch

from modelsurgery import (
    Edit,
    LanguageModel,
    edited,
    find_gate_matrices,
    load_model,
    make_edit,
    score_rows,
    select_region,
)
from modelsurgery.data.texts import LabeledText
from modelsurgery.errors import EvaluationError
from modelsurgery.evaluation.facts import measure_facts
from modelsurgery.evaluation.generation import Continuation, Decoding, TransformersGenerator
from modelsurgery.evaluation.judges import TextsJudge, Verdict
from modelsurgery.evaluation.language_modelling import compare_language_modelling
from modelsurgery.evaluation.protocol import Side, compare
from modelsurgery.evaluation.screening import Screen
from modelsurgery.results import Compared
from tiny import tiny_sentences

TEXTS = tiny_sentences(12)


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> LanguageModel:
    return load_model(tiny_llama)


@pytest.fixture(scope="module")
def strong_edit(model: LanguageModel) -> Edit:
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1))
    gates = find_gate_matrices(model.checkpoint)
    scores = score_rows(model.checkpoint, gates, direction.unsqueeze(0))
    return make_edit(select_region(scores, 60), direction, strength=20.0)


def continued(model: LanguageModel, prompts: list[str], decoding: Decoding) -> list[str]:
    return [one.text for one in TransformersGenerator(model).generate(prompts, decoding)]


def log_probabilities(model: LanguageModel, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = model.model(input_ids=ids).logits[0, :-1]
    return logits.double().log_softmax(-1), ids[0, 1:]


def mean_loss(model: LanguageModel, texts: list[str]) -> float:
    """By the definition: over all predicted tokens of all texts, one text at a time."""
    losses = []
    for text in texts:
        table, targets = log_probabilities(model, text)
        losses += (-table[torch.arange(len(targets)), targets]).tolist()
    return sum(losses) / len(losses)


def test_perplexity_and_divergence_match_their_definitions(
    model: LanguageModel, strong_edit: Edit
) -> None:
    divergences = []
    for text in TEXTS:
        base, _ = log_probabilities(model, text)
        with edited(model.model, strong_edit):
            after, _ = log_probabilities(model, text)
        divergences += (base.exp() * (base - after)).sum(-1).tolist()
    measured = compare_language_modelling(model, TEXTS, [strong_edit])
    assert measured.divergence == pytest.approx(sum(divergences) / len(divergences), rel=1e-4)
    assert measured.tokens == len(divergences)
    assert measured.base_perplexity == pytest.approx(math.exp(mean_loss(model, TEXTS)))
    with edited(model.model, strong_edit):
        assert measured.edited_perplexity == pytest.approx(math.exp(mean_loss(model, TEXTS)))


def test_a_model_does_not_diverge_from_itself(model: LanguageModel, strong_edit: Edit) -> None:
    measured = compare_language_modelling(model, TEXTS, [strong_edit.scaled(0.0)])
    assert measured.divergence == 0
    assert measured.edited_perplexity == measured.base_perplexity


def test_without_an_edit_only_the_base_model_reads(model: LanguageModel) -> None:
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    hook = model.decoder.layers[0].register_forward_hook(count)
    measured = compare_language_modelling(model, TEXTS, [])
    hook.remove()
    assert (measured.edited_perplexity, measured.divergence) == (None, None)
    assert calls == 1  # all of these texts fit into one batch


def test_an_effect_is_what_its_definitions_say(model: LanguageModel, strong_edit: Edit) -> None:
    parts = (TEXTS[:4], TEXTS[4:8], TEXTS[8:])
    before = [mean_loss(model, part) for part in parts]
    hits = right_tokens(model, parts[2])
    screen = Screen(model, *parts)
    (effect,) = screen.measure([strong_edit])
    with edited(model.model, strong_edit):
        after = [mean_loss(model, part) for part in parts]
        hits_after = right_tokens(model, parts[2])
    assert screen.clean_loss == pytest.approx(before[2], rel=1e-5)
    assert effect.behavior == pytest.approx(after[0] - before[0], rel=1e-4)
    assert effect.opposite == pytest.approx(after[1] - before[1], rel=1e-4)
    assert effect.clean == pytest.approx(after[2] - before[2], rel=1e-4)
    assert effect.selectivity == effect.behavior - effect.opposite
    measured = compare_language_modelling(model, parts[2], [strong_edit])
    assert effect.divergence == pytest.approx(measured.divergence, rel=1e-4)
    assert screen.clean_tokens == measured.tokens == len(hits)
    assert effect.capability_lost == pytest.approx((sum(hits) - sum(hits_after)) / len(hits))
    assert effect.clean_error > 0
    assert effect.divergence_error > 0


def right_tokens(model: LanguageModel, texts: list[str]) -> list[bool]:
    hits = []
    for text in texts:
        table, targets = log_probabilities(model, text)
        hits += (table.argmax(-1) == targets).tolist()
    return hits


def test_many_edits_in_a_pass_and_one_at_a_time_have_the_same_effects(
    model: LanguageModel, strong_edit: Edit
) -> None:
    edits = [strong_edit.scaled(factor) for factor in (0.1, -0.3, 1.0)]
    texts = (TEXTS[:4], TEXTS[4:8], TEXTS[8:])
    answers = continued(model, TEXTS[:8], Decoding(1))
    facts = [(prompt, text.strip()) for prompt, text in zip(TEXTS[:8], answers, strict=True)]
    together = Screen(model, *texts, facts).measure(edits)
    alone = Screen(model, *texts, facts, parts=1).measure(edits)
    for one, other in zip(together, alone, strict=True):
        assert vars(one) == pytest.approx(vars(other), rel=1e-3, abs=1e-6)


def test_facts_lost_are_those_that_greedy_decoding_no_longer_gets_right(
    model: LanguageModel, strong_edit: Edit
) -> None:
    # The answer is followed by a full stop, which this tokenizer does not know: it counts as well.
    said = continued(model, TEXTS[:6], Decoding(2))
    facts = [(prompt, text.strip()) for prompt, text in zip(TEXTS[:6], said, strict=True)]

    def right() -> float:
        found = []
        for prompt, answer in facts:
            table, targets = log_probabilities(model, f"{prompt} {answer}.")
            start = len(model.tokenizer(prompt)["input_ids"]) - 1
            found.append(bool((table.argmax(-1) == targets)[start:].all()))
        return sum(found) / len(found)

    base = right()
    (effect,) = Screen(model, [], [], TEXTS[8:], facts).measure([strong_edit])
    with edited(model.model, strong_edit):
        after = right()
    assert effect.capability_lost == pytest.approx(base - after)


def test_greedy_text_is_the_argmax_whatever_the_batch(model: LanguageModel) -> None:
    prompts = TEXTS[:5]
    together = continued(model, prompts, Decoding(6))
    alone = [continued(model, [prompt], Decoding(6))[0] for prompt in prompts]
    assert list(together) == alone
    ids = model.tokenizer(prompts[0], return_tensors="pt")["input_ids"]
    for _ in range(6):
        with torch.inference_mode():
            following = model.model(input_ids=ids).logits[0, -1].argmax()
        ids = torch.cat([ids, following.view(1, 1)], dim=1)
        if following == model.tokenizer.eos_token_id:
            break
    start = len(model.tokenizer(prompts[0])["input_ids"])
    assert together[0] == model.tokenizer.decode(ids[0, start:], skip_special_tokens=True)


def test_sampling_repeats_with_its_seed_and_leaves_the_global_state(model: LanguageModel) -> None:
    state = torch.random.get_rng_state()
    one, same, other = (continued(model, TEXTS, Decoding(8, seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert torch.random.get_rng_state().equal(state)


def measured(
    base: list[list[Verdict]], edited: list[list[Verdict]]
) -> tuple[Compared, dict[Verdict, int]]:
    """Rates from verdicts, a list of prompts a round; and the counts of the edited model."""
    sides = [
        Side(
            tuple(tuple(Continuation("a b", 2, is_finished=True) for _ in row) for row in rounds),
            tuple(map(tuple, rounds)),
            {},
        )
        for rounds in (base, edited)
    ]
    return compare(sides[0].rates(), sides[1].rates(), "prompts"), sides[1].counts


def test_rates_are_over_prompts_and_failed_answers_are_never_harmless() -> None:
    found, counted = measured(  # two prompts, two rounds
        [["behavior", "behavior"], ["opposite", "behavior"]],
        [["opposite", "failed"], ["behavior", "behavior"]],
    )
    assert found.edited is not None
    assert found.base.rate == pytest.approx((0.5 + 1.0) / 2)
    assert found.edited.rate == pytest.approx((0.5 + 1.0) / 2)  # not 0.25 for prompt two
    counts = {"behavior": 2, "opposite": 1, "neither": 0, "failed": 1, "unjudged": 0}
    assert counted == counts
    assert found.reduction == pytest.approx(0.0)


def test_a_model_that_says_nothing_cannot_be_measured() -> None:
    with pytest.raises(EvaluationError, match="no prompt has a judged continuation"):
        measured([["behavior"] * 3], [["failed"] * 3])


def test_no_behavior_in_the_base_has_no_reduction() -> None:
    found, _ = measured([["opposite"]], [["opposite"]])
    assert found.reduction is None


def test_facts_are_exact_matches_of_the_greedy_answer(
    model: LanguageModel, strong_edit: Edit
) -> None:
    answers = [text.split(".")[0].strip() for text in continued(model, TEXTS[:4], Decoding(8))]
    facts = [(TEXTS[0], answers[0]), (TEXTS[1], answers[1].upper()), (TEXTS[2], "wrong answer")]
    found = measure_facts(TransformersGenerator(model), [strong_edit], facts)
    base, after = found.rates
    assert after is not None
    assert base.rate == pytest.approx(2 / 3)
    assert after.rate < base.rate
    assert found.lost is not None
    assert float(found.lost.mean()) == pytest.approx(base.rate - after.rate)


def test_the_texts_judge_learns_from_the_texts_and_calls_empty_answers_failed() -> None:
    train = [
        LabeledText(f"{word} {noun}", label)
        for label, word in ((1, "awful"), (0, "lovely"))
        for noun in ("cat", "dog", "house", "day", "tree", "rain")
    ]
    test = [LabeledText("awful weather", 1), LabeledText("lovely weather", 0)]
    judge = TextsJudge(train, test)
    assert judge.auroc == 1.0
    said = judge(["p"] * 4, ["an awful thing", "such a lovely thing", "", "  \n"])
    assert said == ["behavior", "opposite", "failed", "failed"]
