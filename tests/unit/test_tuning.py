import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modelsurgery import Edit, LanguageModel, extract_hidden_states, load_model
from modelsurgery.data.behaviors import Behavior, BehaviorFile
from modelsurgery.data.behaviors.prompting import plain_prompt_set
from modelsurgery.data.texts import LabeledText
from modelsurgery.edit.probe import Probe
from modelsurgery.edit.region import PAPER_ROWS
from modelsurgery.errors import ArtifactError, DamageBudgetError, EvaluationError, RecipeError
from modelsurgery.evaluation.generation import TransformersGenerator
from modelsurgery.evaluation.language_modelling import compare_language_modelling
from modelsurgery.evaluation.protocol import decodings_of
from modelsurgery.evaluation.screening import Effect
from modelsurgery.model.probe_fitting import fit_probe_on_texts
from modelsurgery.search import Budget, Search, SearchSpace, Study, Trial, default_space
from modelsurgery.search.study import Proposal
from tiny import tiny_sentences

SENTENCES = tiny_sentences(160)


class CountsHappy:
    """A judge for random models: the behavior is the word happy."""

    name = note = version = "happy"

    def __call__(self, prompts: object, continuations: list[str]) -> list[str]:
        return ["behavior" if "happy" in text else "opposite" for text in continuations]


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> LanguageModel:
    return load_model(tiny_llama)


@pytest.fixture(scope="module")
def behavior() -> Behavior:
    texts = [
        LabeledText(f"{sentence} {'happy' if number % 2 else 'sad'}", number % 2)
        for number, sentence in enumerate(SENTENCES[:80])
    ]
    return Behavior(
        BehaviorFile(name="happiness", texts=Path("happy.jsonl")), False,
        train=tuple(texts[:40]), validation=tuple(texts[40:60]), test=tuple(texts[60:]),
        validation_prompts=tuple(SENTENCES[80:100]),
        prompt_sets=(plain_prompt_set("prompts", "", SENTENCES[100:120], 24),),
        validation_neutral=tuple(SENTENCES[120:140]), test_neutral=tuple(SENTENCES[140:]),
        neutral_note="",
    )  # fmt: skip


@pytest.fixture(scope="module")
def probe(model: LanguageModel, behavior: Behavior) -> Probe:
    texts = [text.text for text in (*behavior.train, *behavior.test)]
    features = extract_hidden_states(model, texts, [3]).by_layer[3]
    return fit_probe_on_texts(features, behavior.train, behavior.test, layer=3)


SPACE = SearchSpace(
    probe_layers=(3,),
    rules=("mean-difference", "W1"),
    windows=(None, (2, 3)),
    rows=(0.03, 0.3),
    per_layer=(False, True),
    layer_count=3,
)
SPACE_OF_SHARES = replace(SPACE, rows=(0.001, 0.5))
BUDGET = Budget(perplexity_rise=0.02, capability_drop=None)


@pytest.fixture
def search(model: LanguageModel, behavior: Behavior, probe: Probe) -> Search:
    return Search(model, behavior, CountsHappy(), [probe], SPACE, BUDGET)


def loss_rise(model: LanguageModel, texts: Sequence[str], edit: Edit) -> float:
    """Rise of the mean loss, with the edit in the weights and nothing else in the pass."""
    found = compare_language_modelling(model, texts, [edit])
    assert found.edited_perplexity is not None
    return math.log(found.edited_perplexity / found.base_perplexity)


def selectivity(model: LanguageModel, behavior: Behavior, edit: Edit) -> float:
    shows, opposite = (
        loss_rise(model, [one.text for one in behavior.validation if one.label == label], edit)
        for label in (1, 0)
    )
    return shows - opposite


def happy_share(model: LanguageModel, behavior: Behavior, edits: Sequence[Edit]) -> float:
    """The judge's rate on the validation prompts, five samples each, generated here."""
    generator, said = TransformersGenerator(model), []
    for decoding in decodings_of(behavior.prompt_sets[0], 5, 0):
        made = generator.generate(behavior.validation_prompts, decoding, edits)
        said += [one.text for one in made]
    return sum("happy" in text for text in said) / len(said)


@pytest.mark.parametrize("allowed", [0.02, 0.001])  # what no trial, and what a third is over
def test_a_search_uses_the_budget_and_stays_inside(
    model: LanguageModel, behavior: Behavior, probe: Probe, allowed: float
) -> None:
    budget = Budget(perplexity_rise=allowed, divergence=None, capability_drop=None)
    search = Search(model, behavior, CountsHappy(), [probe], SPACE, budget)
    with Study(SPACE, {}) as study:
        result = search.run(study, trials=32)
    assert len(result.trials) + result.broken == 32
    assert result.edit.strength == pytest.approx(result.best.strength)

    for one in result.survivors:  # the judge may choose any of them
        edit = search.edit_of(one.trial.setting, one.trial.strength)
        rise = loss_rise(model, behavior.validation_neutral, edit)
        assert rise == pytest.approx(one.trial.effect.clean, rel=1e-3, abs=1e-6)
        assert rise <= 0.8 * math.log1p(allowed)
    assert selectivity(model, behavior, result.edit) == pytest.approx(
        result.best.effect.selectivity, rel=1e-3
    )
    uses = [one.effect.clean / math.log1p(allowed) for one in result.trials]
    assert (max(uses) > 0.8) == (allowed == 0.001)
    assert max(use for use in uses if use <= 0.8) > 0.4


def test_the_survivor_that_the_judge_likes_best_is_chosen(
    search: Search, model: LanguageModel, behavior: Behavior
) -> None:
    with Study(SPACE, {}) as study:
        result = search.run(study, trials=24)
    edits = [search.edit_of(one.trial.setting, one.trial.strength) for one in result.survivors]
    rates = [happy_share(model, behavior, [edit]) for edit in edits]
    assert [one.rate for one in result.survivors] == pytest.approx(rates)
    assert result.base_rate == pytest.approx(happy_share(model, behavior, ()))
    assert min(rates) < max(rates)
    chosen = [one.trial.number for one in result.survivors].index(result.best.number)
    assert rates[chosen] == min(rates)


def test_the_front_and_the_milder_edit_are_the_best_of_all_trials(
    model: LanguageModel, behavior: Behavior, probe: Probe
) -> None:
    budget = Budget(perplexity_rise=0.0005, divergence=None, capability_drop=None)
    search = Search(model, behavior, CountsHappy(), [probe], SPACE, budget)
    with Study(SPACE, {}) as study:
        result = search.run(study, trials=32)

    def use(one: Trial) -> float:
        return max(one.effect.clean / math.log1p(0.0005), 1e-4)

    def change(one: Trial) -> float:
        return one.effect.selectivity

    useful = [one for one in result.trials if change(one) > 0]
    front = [
        one
        for one in useful
        if not any(use(other) <= use(one) and change(other) > change(one) for other in useful)
    ]
    assert 1 < len(front) < len(useful)
    assert list(result.front) == sorted(front, key=use)
    mildest = max((one for one in useful if use(one) <= 0.5), key=change)
    assert result.milder == mildest
    assert change(mildest) < max(change(one) for one in useful if use(one) <= 0.8)


class JudgesNothing(CountsHappy):
    def __call__(self, prompts: object, continuations: list[str]) -> list[str]:
        return ["unjudged" for _ in continuations]


def test_a_judge_that_fails_ends_the_search_and_the_trials_stay(
    model: LanguageModel, behavior: Behavior, probe: Probe
) -> None:
    search = Search(model, behavior, JudgesNothing(), [probe], SPACE, BUDGET)
    with Study(SPACE, {}) as study:
        with pytest.raises(EvaluationError, match="could not judge any continuation"):
            search.run(study, trials=24)
        assert study.ended == 24


def test_a_search_is_repeatable(search: Search) -> None:
    def trials() -> list[Trial]:
        with Study(SPACE, {}, seed=3) as study:
            search.make_trials(study, 16)
            return study.trials()

    assert trials() == trials()


def test_the_first_trials_are_the_papers_setting_and_what_did_well(search: Search) -> None:
    with Study(SPACE, {}) as study:
        search.make_trials(study, 3)
        first, second, *_ = study.trials()
    assert (first.setting.rule, first.setting.rows) == ("W1", PAPER_ROWS)
    assert (first.setting.window, first.setting.per_layer) == (None, False)
    assert second.setting.rule == "mean-difference"


def test_toward_is_the_other_sign(model: LanguageModel, behavior: Behavior, probe: Probe) -> None:
    search = Search(model, behavior, CountsHappy(), [probe], SPACE, BUDGET, sign=-1)
    with Study(SPACE, {}) as study:
        result = search.run(study, trials=24)
    assert result.edit.strength == pytest.approx(-result.best.strength)
    assert selectivity(model, behavior, result.edit) < 0


def test_nothing_held_out_is_read(model: LanguageModel, behavior: Behavior, probe: Probe) -> None:
    unseen = (replace(behavior.prompt_sets[0], prompts=()),)
    blind = replace(behavior, test=(), prompt_sets=unseen, test_neutral=(), test_facts=())
    found = []
    for texts in (behavior, blind):
        search = Search(model, texts, CountsHappy(), [probe], SPACE, BUDGET)
        with Study(SPACE, {}) as study:
            result = search.run(study, trials=12)
        found.append((result.trials, result.survivors, search.dose_response(result.edit)))
    assert found[0] == found[1]


def test_an_impossible_budget_is_said_so(
    model: LanguageModel, behavior: Behavior, probe: Probe
) -> None:
    budget = Budget(perplexity_rise=None, divergence=1e-12, capability_drop=None)
    search = Search(model, behavior, CountsHappy(), [probe], SPACE, budget)
    with (
        Study(SPACE, {}) as study,
        pytest.raises(DamageBudgetError, match=r"no edit: .* times the budget of divergence"),
    ):
        search.run(study, trials=12)


def test_the_model_is_as_before_after_a_search(
    model: LanguageModel, behavior: Behavior, probe: Probe
) -> None:
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    search = Search(model, behavior, CountsHappy(), [probe], SPACE, BUDGET)
    with Study(SPACE, {}) as study:
        search.dose_response(search.run(study, trials=8).edit)
    after = model.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_curve_goes_through_the_base_model_and_the_chosen_strength(search: Search) -> None:
    with Study(SPACE, {}) as study:
        edit = search.run(study, trials=12).edit
    curve = search.dose_response(edit)
    assert curve[0].strength == 0
    assert curve[0].effect.divergence == pytest.approx(0, abs=1e-7)
    (chosen,) = (point for point in curve if point.is_chosen)
    assert chosen.strength == edit.strength
    divergences = [point.effect.divergence for point in curve]
    assert divergences == sorted(divergences)


def effect(**values: float) -> Effect:
    known = dict.fromkeys(("behavior", "opposite", "clean", "divergence", "capability_lost"), 0.0)
    return Effect(**(known | values))


def test_a_study_goes_on_where_it_ended(search: Search, tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    with Study(SPACE, {"a": 1}, storage=path) as study:
        search.make_trials(study, 8)
        first = study.trials()
    with Study(SPACE, {"a": 1}, storage=path) as study:
        assert study.trials() == first
        search.make_trials(study, 8)
        assert study.trials() == first  # enough
        search.make_trials(study, 16)
        assert len(study.trials()) == 16
    with Study(SPACE, {"a": 2}, storage=path) as study:  # something else depends on
        assert study.trials() == []
    with Study(replace(SPACE, rows=0.1), {"a": 1}, storage=path) as study:  # another space
        assert study.trials() == []


def test_a_trial_that_was_killed_is_made_again(search: Search, tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    with Study(SPACE, {}, storage=path) as study:
        study.want(SPACE.first_settings()[0])
        lost = study.ask()  # and the process dies
    with Study(SPACE, {}, storage=path) as study:
        assert study.ended == 0
        search.make_trials(study, 8)
        trials = study.trials()
    assert len(trials) == 8
    assert trials[0].setting == lost.setting


def test_two_may_work_on_one_study(search: Search, tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    with Study(SPACE, {}, storage=path) as one, Study(SPACE, {}, storage=path) as other:
        for setting in SPACE.first_settings():
            one.want(setting)
            other.want(setting)  # once is enough
        asked = [one.ask(), other.ask(), one.ask()]
        assert len({proposal.setting for proposal in asked}) == 3
        for proposal in asked:
            one.tell(proposal, 2.0, effect(behavior=0.1), 0.1)
        assert len(other.trials()) == 3


def test_what_is_asked_for_in_a_row_differs() -> None:
    with Study(SPACE_OF_SHARES, {}) as study:
        asked = [study.ask().setting for _ in range(8)]  # and nothing is told meanwhile
    assert len(set(asked)) == 8


def test_no_more_trials_are_made_when_others_made_them_meanwhile(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "study.journal"
    with Study(SPACE, {}, storage=path) as one, Study(SPACE, {}, storage=path) as other:
        search.make_trials(one, 8)
        ask = one.ask

        def ask_while_the_other_works() -> Proposal:
            if one.ended == 8:
                for _ in range(3):
                    other.tell(other.ask(), 1.0, effect(), 0.0)
            return ask()

        monkeypatch.setattr(one, "ask", ask_while_the_other_works)
        search.make_trials(one, 12)
        assert one.ended == 12


def test_an_edit_that_breaks_the_model_is_no_trial_to_choose_from(tmp_path: Path) -> None:
    with Study(SPACE, {}, storage=tmp_path / "study.journal") as study:
        study.tell(study.ask(), 1e9, effect(clean=math.nan), math.nan)
        assert study.trials() == []
        assert study.ended == 1
        assert "strength 1e+09" in study.failures[0]


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    path.write_text("no journal\nat all\n")
    with pytest.raises(ArtifactError, match="not a journal of studies"):
        Study(SPACE, {}, storage=path)


def test_windows_that_are_too_small_for_the_rows_are_left_out(model: LanguageModel) -> None:
    fixed = replace(SPACE, rows=0.9)
    assert fixed.fitting(model.gates).windows == (None,)
    with pytest.raises(RecipeError, match="choose fewer rows"):
        replace(fixed, windows=((2, 3),)).fitting(model.gates)


def test_the_default_space_has_all_and_every_run_of_quarters() -> None:
    space = default_space(32)
    assert space.windows[0] is None
    assert len(space.windows) == 10
    assert (17, 24) in space.windows
    assert default_space(1).windows == (None,)
    for count in (1, 2, 3, 5, 80):
        for window in default_space(count).windows[1:]:
            assert window is not None
            assert 1 <= window[0] <= window[1] <= count
