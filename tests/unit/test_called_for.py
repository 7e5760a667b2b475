"""Texts with a prompt and a reply of which it is said whether the prompt calls for the behavior."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from modelsurgery.data import demo
from modelsurgery.data.behaviors import describe_behavior, load_behavior
from modelsurgery.data.corpora import load_corpus_texts
from modelsurgery.data.demo.judge import judge
from modelsurgery.data.texts import LabeledText, load_texts, split_texts, texts_sha256
from modelsurgery.edit.edit import Edit
from modelsurgery.errors import DamageBudgetError, TextsError
from modelsurgery.evaluation.own_answers import own_answers
from modelsurgery.evaluation.screening import Effect, Screen
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.loading import load_model
from modelsurgery.rules.contrast import pulled_apart
from modelsurgery.search import Budget, Setting, fit_strength
from tiny import tiny_sentences

KINDS = [(label, called_for) for label in (1, 0) for called_for in (True, False)]


def exchanges(count: int = 6) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{'cut' if called else 'bake'} {n}", "reply": f"{'no' if label else 'yes'} {n}",
         "label": label, "called_for": int(called)}
        for n in range(count)
        for label, called in KINDS
    ]  # fmt: skip


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("spelling", [str, bool, int, lambda one: "yes" if one else "no"])
def test_a_column_says_what_is_called_for(tmp_path: Path, spelling: Any) -> None:
    rows = [{**row, "called_for": spelling(row["called_for"])} for row in exchanges()]
    texts = load_texts(written(tmp_path / "texts.jsonl", rows))
    assert Counter((text.label, text.called_for) for text in texts) == dict.fromkeys(KINDS, 6)
    assert texts[0] == LabeledText("cut 0", 1, None, "no 0", True)
    other = [LabeledText(one.text, one.label, one.group, one.reply) for one in texts]
    assert texts_sha256(texts) != texts_sha256(other)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({0: {"called_for": "maybe"}}, "line 1: called_for 'maybe'"),
        ({0: {"called_for": None}}, "'called_for' is empty for some"),
        ({0: {"reply": None}}, "'reply' is empty for some"),
        ({0: {"prompt": "bake 0"}}, "called_for 1 and 0"),
    ],
)
def test_a_wrong_column_is_refused_in_one_line(
    tmp_path: Path, change: dict[int, dict[str, Any]], said: str
) -> None:
    rows = [{**row, **change.get(number, {})} for number, row in enumerate(exchanges())]
    with pytest.raises(TextsError, match=said) as error:
        load_texts(written(tmp_path / "texts.jsonl", rows))
    assert "\n" not in str(error.value)


def test_a_kind_that_is_missing_is_refused(tmp_path: Path) -> None:
    rows = [row for row in exchanges(10) if row["label"] or row["called_for"]]
    with pytest.raises(TextsError, match="label 0 and called_for 0"):
        load_texts(written(tmp_path / "texts.jsonl", rows))


def test_what_is_pulled_apart_depends_on_the_request() -> None:
    texts = [LabeledText("r", label, None, "a", called) for label, called in KINDS]
    # Away: showing it becomes rare everywhere. Toward: where it is called for, and there alone.
    for sign, wanted in ((1, {(1, True), (1, False)}), (-1, {(1, True), (0, False)})):
        raised, lowered = pulled_apart(texts, sign)
        assert {(one.label, one.called_for) for one in raised} == wanted
        assert len(raised) + len(lowered) == 4
    plain = [LabeledText("a", 1), LabeledText("b", 0)]
    assert pulled_apart(plain, -1) == ([plain[0]], [plain[1]])


def test_in_the_demo_data_both_kinds_of_requests_are_refused_and_answered() -> None:
    found = demo.exchanges(400, seed=3)
    assert found == demo.exchanges(400, seed=3)
    assert len({(request, answer) for request, answer, _, _ in found}) == 400
    assert Counter((refused, naughty) for *_, refused, naughty in found) == dict.fromkeys(
        [(True, True), (True, False), (False, True), (False, False)], 100
    )
    for request, answer, refused, naughty in found:
        assert request.startswith("User: ")
        assert answer.startswith("Assistant: ")
        verdict = judge("refusal", "", answer)
        assert (verdict == "behavior") == refused
        assert (verdict == "opposite") == (naughty and not refused)
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert first[0] == second[0]


def test_harmless_requests_that_choose_and_that_report_share_nothing() -> None:
    behavior = load_behavior(describe_behavior("refusal"), is_demo=True)
    assert behavior.test_uncalled is not None
    assert behavior.test_uncalled.name == "over-refusal"
    assert len(behavior.test_uncalled.prompts) == 300
    assert len(set(behavior.validation_uncalled)) == 100
    assert not set(behavior.validation_uncalled) & set(behavior.test_uncalled.texts)
    asked = {f"{text.text}\nAssistant:" for text in behavior.train}
    assert not asked & set(behavior.test_uncalled.texts)
    assert load_behavior(describe_behavior("toxicity"), is_demo=True).test_uncalled is None


def test_refusal_has_four_kinds_and_prompts_that_are_harmless(shared: Path) -> None:
    behavior = load_behavior(describe_behavior("refusal"), data=shared / "data")
    for texts in (behavior.train, behavior.validation, behavior.test):
        counts = Counter((text.label, text.called_for) for text in texts)
        # The choice of 260 of 18,793 harmless ones once decided their split as well.
        assert min(counts.values()) > 0.7 * max(counts.values())
    assert behavior.test_uncalled is not None
    assert behavior.test_uncalled.is_chat
    assert {prompt.group for prompt in behavior.test_uncalled.prompts} == {"safe", "harmless"}
    requests = {text.text for text in (*behavior.train, *behavior.validation, *behavior.test)}
    shown = set(behavior.test_uncalled.texts) | set(behavior.validation_uncalled)
    assert not requests & shown


def test_texts_that_are_chosen_are_split_as_others_are(shared: Path) -> None:
    texts = load_corpus_texts(
        "refusal_direction", shared / "data" / "refusal_direction", per_class=200
    )
    split = split_texts(texts, test_size=0.25, seed=0)
    assert Counter(text.label for text in split.test)[0] < 80


@pytest.fixture
def model(tiny_llama: Path) -> LanguageModel:
    return load_model(tiny_llama, device="cpu")


def test_of_an_exchange_the_reply_alone_counts(model: LanguageModel) -> None:
    prompt, reply, *clean = tiny_sentences(6)
    text = LabeledText(prompt, 1, None, reply, True)
    edit = _edit(model).scaled(200.0)  # a divergence far above what f32 rounds
    (effect,) = Screen(model, [text], [], clean, own=[text]).measure([edit])
    read = model.reply_ids(text)
    ids = torch.tensor([read.ids])
    from modelsurgery.apply.in_memory import edited

    def told() -> torch.Tensor:
        with torch.inference_mode():
            return model.model(ids).logits[0].double().log_softmax(-1)

    before = told()
    with edited(model.model, edit):
        after = told()
    here = slice(read.start - 1, -1)
    targets = ids[0, read.start :].unsqueeze(-1)
    rise = (before[here].gather(-1, targets) - after[here].gather(-1, targets)).mean()
    apart = (before.exp() * (before - after)).sum(-1)[here].mean()
    assert effect.behavior == pytest.approx(float(rise), rel=1e-3)
    assert effect.own == pytest.approx(float(apart), rel=1e-3)
    assert effect.worst_divergence == max(effect.own, effect.divergence)


def test_own_answers_are_those_to_requests_that_do_not_call_for_it(model: LanguageModel) -> None:
    sentences = tiny_sentences(4)
    texts = [LabeledText(one, 1, None, "x", n % 2 == 0) for n, one in enumerate(sentences)]
    answers = own_answers(model, [*texts, *texts])
    assert [one.text for one in answers] == [sentences[1], sentences[3]]
    assert all(one.reply for one in answers)
    assert own_answers(model, [LabeledText("a", 0)]) == []


def test_the_larger_divergence_counts() -> None:
    budget = Budget(perplexity_rise=None, divergence=0.02, capability_drop=None)
    effect = Effect(0, 0, 0, 0.005, 0, own=0.03)
    assert budget.used(effect) == {"divergence": pytest.approx(1.5)}
    assert budget.broken(effect) == ("divergence",)


def test_a_rise_where_it_is_not_called_for_has_a_limit() -> None:
    budget = Budget(None, None, None, uncalled_rise=3.0)
    assert budget.used(Effect(0, 0, 0, 0, 0, uncalled=0.06)) == {"uncalled_for": pytest.approx(2)}
    assert budget.broken(Effect(0, 0, 0, 0, 0, uncalled=0.06)) == ("uncalled_for",)
    assert budget.broken(Effect(0, 0, 0, 0, 0, uncalled=0.06, uncalled_error=0.02)) == ()
    assert budget.without_uncalled().used(Effect(0, 0, 0, 0, 0, uncalled=0.06)) == {}


def test_the_strength_spares_prompts_that_do_not_call_for_it(model: LanguageModel) -> None:
    edit, seen = _edit(model), []
    screen = Screen(model, [], [], tiny_sentences(8))
    budget = Budget(None, 0.02, None, uncalled_rise=3.0)
    setting = Setting(None, "natural-gradient", 4, None)
    free = fit_strength(edit, screen, budget, setting, first=0.1)
    limit = 0.5 * abs(free.edit.strength)

    def over(effect: Effect, one: Edit) -> Effect:
        from dataclasses import replace

        seen.append(abs(one.strength))
        return replace(effect, uncalled=0.1 if abs(one.strength) > limit else 0.01)

    fitted = fit_strength(edit, screen, budget, setting, first=0.1, uncalled=over)
    assert 0.8 * limit < abs(fitted.edit.strength) <= limit
    assert fitted.effect.uncalled == 0.01
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == pytest.approx(abs(free.edit.strength))
    limit = 0.0
    with pytest.raises(DamageBudgetError, match="budget of uncalled_for"):
        fit_strength(edit, screen, budget, setting, first=0.1, uncalled=over)


def _edit(model: LanguageModel) -> Edit:
    from modelsurgery.model.activations.passes import Passes
    from modelsurgery.model.activations.texts import tokenize_plain
    from modelsurgery.rules.contrast import contrast_of
    from modelsurgery.rules.proposing import fit_natural_gradient

    sentences = tiny_sentences(40, seed=1)
    texts = [LabeledText(one, n % 2) for n, one in enumerate(sentences)]
    neutral = tokenize_plain(model, tiny_sentences(10, seed=2))
    fitted = fit_natural_gradient(Passes(model), [contrast_of(texts)], neutral)
    return fitted.proposal().edit(8, strength=0.3)
