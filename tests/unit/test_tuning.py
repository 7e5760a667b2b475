import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modelsurgery import LanguageModel, extract_hidden_states, load_model
from modelsurgery.apply.in_memory import edited
from modelsurgery.behaviors import Behavior, BehaviorFile
from modelsurgery.behaviors.prompting import plain_prompt_set
from modelsurgery.errors import DamageBudgetError
from modelsurgery.evaluation.language_modelling import mean_token_loss
from modelsurgery.fitting import fit_probe_on_texts
from modelsurgery.probe import Probe
from modelsurgery.texts import LabelledText
from modelsurgery.tuning import SAFETY, Search, SearchSpace
from tiny import tiny_sentences

SENTENCES = tiny_sentences(160)


class CountsHappy:
    """A judge for random models: the behavior is the word happy."""

    name = note = "happy"

    def __call__(self, prompts: object, continuations: list[str]) -> list[str]:
        return ["behavior" if "happy" in text else "opposite" for text in continuations]


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> LanguageModel:
    return load_model(tiny_llama)


@pytest.fixture(scope="module")
def behavior() -> Behavior:
    texts = [
        LabelledText(f"{sentence} {'happy' if number % 2 else 'sad'}", number % 2)
        for number, sentence in enumerate(SENTENCES[:80])
    ]
    return Behavior(
        BehaviorFile(name="happiness", texts=Path("happy.jsonl")), False,
        fit=tuple(texts[:40]), tuning=tuple(texts[40:60]), held_out=tuple(texts[60:]),
        tuning_prompts=tuple(SENTENCES[80:100]),
        prompt_sets=(plain_prompt_set("prompts", "", SENTENCES[100:120], 24),),
        tuning_neutral=tuple(SENTENCES[120:140]), neutral=tuple(SENTENCES[140:]),
        neutral_note="",
    )  # fmt: skip


@pytest.fixture(scope="module")
def probe(model: LanguageModel, behavior: Behavior) -> Probe:
    texts = [text.text for text in (*behavior.fit, *behavior.held_out)]
    features = extract_hidden_states(model, texts, [3]).by_layer[3]
    return fit_probe_on_texts(features, behavior.fit, behavior.held_out, layer=3)


SPACE = SearchSpace(
    rules=("mean-difference", "W1"),
    rows=(0.1, 0.3),
    windows=(None, (2, 3)),
    screened=2,
    finalists=3,
)


def test_every_setting_is_as_strong_as_the_budget_allows(
    model: LanguageModel, behavior: Behavior, probe: Probe
) -> None:
    search = Search(model, behavior, CountsHappy(), [probe], SPACE, max_perplexity_rise=0.02)
    found = search.at_equal_damage()
    assert len(found) == 8
    base = mean_token_loss(model, behavior.tuning_neutral)
    allowed = SAFETY * math.log1p(0.02)
    for candidate in found:
        assert candidate.selectivity.clean <= allowed + 1e-6
        stronger = search.edit_of(replace(candidate, strength=candidate.strength * 2))
        with edited(model.model, stronger):
            rise = mean_token_loss(model, behavior.tuning_neutral) - base
        assert rise > allowed or candidate.strength >= 128
    values = [candidate.selectivity.value for candidate in found]
    assert values == sorted(values, reverse=True)


def test_the_judge_decides_between_the_finalists(
    model: LanguageModel, behavior: Behavior, probe: Probe
) -> None:
    result = Search(model, behavior, CountsHappy(), [probe], SPACE).run()
    rates = [candidate.rate for candidate in result.candidates]
    assert all(rate is not None for rate in rates[:3])
    assert rates[3:] == [None] * 5
    assert rates[0] == min(rates[:3])
    assert result.edit.strength == pytest.approx(result.best.strength)


def test_only_the_best_directions_are_tried_with_all_rows_and_windows(
    model: LanguageModel, behavior: Behavior, probe: Probe
) -> None:
    probes = [probe, replace(probe, layer=2, mean_difference=probe.weight[0])]
    space = replace(SPACE, screened=1)
    found = Search(model, behavior, CountsHappy(), probes, space).at_equal_damage()
    tried = Counter((one.probe_layer, one.rule) for one in found)
    assert sorted(tried.values()) == [1, 1, 1, 4]
    middle = {
        (one.probe_layer, one.rule): one.selectivity.value
        for one in found
        if (one.rows, one.window) == (0.1, (2, 3))
    }
    assert tried.most_common(1)[0][0] == max(middle, key=middle.__getitem__)


def test_toward_is_the_other_sign(model: LanguageModel, behavior: Behavior, probe: Probe) -> None:
    search = Search(model, behavior, CountsHappy(), [probe], SPACE, sign=-1)
    found = search.at_equal_damage()
    assert all(candidate.strength < 0 for candidate in found)
    values = [candidate.selectivity.value for candidate in found]
    assert values == sorted(values)


def test_nothing_held_out_is_read(model: LanguageModel, behavior: Behavior, probe: Probe) -> None:
    unseen = (replace(behavior.prompt_sets[0], prompts=()),)
    blind = replace(behavior, held_out=(), prompt_sets=unseen, neutral=(), facts=())
    arguments = (CountsHappy(), [probe], SearchSpace(rows=(0.1,)))
    seeing = Search(model, behavior, *arguments).run()
    assert Search(model, blind, *arguments).run().candidates == seeing.candidates


def test_an_impossible_budget_is_said_so(
    model: LanguageModel, behavior: Behavior, probe: Probe
) -> None:
    # On a random model one of the two signs lowers the loss, by luck; the other can only raise it.
    space = SearchSpace(rules=("mean-difference",), rows=(1.0,))
    outcomes = []
    for sign in (1, -1):
        search = Search(
            model, behavior, CountsHappy(), [probe], space, sign=sign, max_perplexity_rise=1e-9
        )
        try:
            search.run()
        except DamageBudgetError as error:
            outcomes.append(str(error))
    assert outcomes
    assert all("no edit keeps the perplexity inside the budget" in text for text in outcomes)


def test_the_model_is_as_before_after_a_search(
    model: LanguageModel, behavior: Behavior, probe: Probe
) -> None:
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    Search(model, behavior, CountsHappy(), [probe], SearchSpace(rows=(0.2,))).run()
    after = model.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
