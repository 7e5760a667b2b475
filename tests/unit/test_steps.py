"""Several steps of the natural gradient, and joining them to one edit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from less_data import less_data
from modelsurgery import Edit, fit_edit, load_model
from modelsurgery.apply.in_memory import edited
from modelsurgery.checkpoint.layouts import Address
from modelsurgery.data.behaviors import Behavior, describe_behavior, load_behavior
from modelsurgery.data.demo import demo_model_path
from modelsurgery.edit.edit import RowUpdate
from modelsurgery.edit.effects import Prediction
from modelsurgery.edit.steps import join_steps
from modelsurgery.errors import RecipeError
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.search.fitting import FittedRule


def update(block: int, rows: list[int], coefficients: list[float], direction: list[float],
           prices: list[float] | None = None) -> RowUpdate:  # fmt: skip
    predicted = None
    if prices is not None:
        predicted = Prediction(np.float32(coefficients) * 2, np.float32(prices))
    return RowUpdate(
        f"blocks.{block}", Address(block, "mlp", -1), (8, 2), "F32", np.int32(rows),
        np.float32(coefficients), np.float32(direction), predicted=predicted,
    )  # fmt: skip


def test_updates_along_the_same_direction_become_one() -> None:
    first = Edit((update(0, [1, 3], [1.0, -2.0], [1, 0], [0.01, 0.04]),), 1.0, 0.5, 8)
    second = Edit((update(0, [3, 5], [-1.0, 3.0], [1, 0], [0.01, 0.09]),), 1.0, 0.5, 8)
    (one,) = join_steps(first, second).updates
    assert one.rows.tolist() == [1, 3, 5]
    assert one.coefficients.tolist() == [1.0, -3.0, 3.0]
    assert one.predicted is not None
    assert one.predicted.gains.tolist() == [2.0, -6.0, 6.0]
    np.testing.assert_allclose(one.predicted.prices, [0.01, 0.09, 0.09], rtol=1e-6)


def test_other_directions_and_matrices_stand_beside_each_other() -> None:
    first = Edit((update(1, [0], [1.0], [1, 0]),), 1.0, 0.5, 8)
    second = Edit((update(0, [0], [1.0], [1, 0]), update(1, [0], [2.0], [0, 1])), 1.0, 0.5, 8)
    joined = join_steps(first, second)
    assert [one.address.block for one in joined.updates] == [0, 1, 1]
    assert joined.row_count == 2


def test_strength_is_the_root_mean_square_in_the_unit_of_the_first() -> None:
    """Row 0 gets (3, 4) of length 5, row 1 (3, 0): root mean square √17; it was 3."""
    first = Edit((update(0, [0, 1], [3.0, 3.0], [1, 0]),), 1.0, 0.6, 8)
    second = Edit((update(0, [0], [4.0], [0, 1]),), 1.0, 0.6, 8)
    assert join_steps(first, second).strength == pytest.approx(0.6 * np.sqrt(17) / 3, rel=1e-6)
    turned = join_steps(replace(first, strength=-0.6), second)
    assert turned.strength == pytest.approx(-0.6 * np.sqrt(17) / 3, rel=1e-6)


def test_each_step_goes_the_same_part_of_the_way() -> None:
    """Slopes that stay as they are give the edit of one step, whatever strength each comes with."""
    whole = Edit((update(0, [1, 3], [1.0, -2.0], [1, 0]),), 1.0, 0.5, 8)
    strengths = iter([7.0, 0.1])
    proposal: Any = None  # of which `make` makes nothing
    rule = FittedRule(lambda _: proposal, again=lambda edit, is_kept: proposal)
    made = rule.climb(lambda _: whole.scaled(next(strengths)), whole, 3)
    (one,) = made.updates
    np.testing.assert_allclose(one.coefficients, [1.0, -2.0], rtol=1e-6)
    assert made.strength == pytest.approx(0.5, rel=1e-6)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_model(demo_model_path())


@pytest.fixture(scope="module")
def behavior() -> Behavior:
    with less_data():
        return load_behavior(describe_behavior("toxicity"), is_demo=True)


def test_more_steps_pull_further_apart_at_the_same_price(
    model: LanguageModel, behavior: Behavior
) -> None:
    texts = behavior.train[:120]
    found = {
        steps: fit_edit(model, texts, behavior.validation_neutral[:30], steps=steps)
        for steps in (1, 3)
    }
    one, three = (found[steps].measured for steps in (1, 3))
    assert one is not None
    assert three is not None
    assert three.gain > 2 * one.gain
    assert three.divergence <= 0.02
    # A matrix still gets one direction, so that adapters have rank 1.
    assert len(found[3].updates) == len(found[1].updates) == 4
    assert found[3].provenance.settings["steps"] == 3
    with edited(model.model, found[3]):
        pass


def test_a_given_strength_is_kept(model: LanguageModel, behavior: Behavior) -> None:
    edit = fit_edit(model, behavior.train[:120], strength=0.7, steps=2)
    assert edit.strength == pytest.approx(0.7)


def test_the_other_rules_take_one_step(model: LanguageModel, behavior: Behavior) -> None:
    with pytest.raises(RecipeError, match="takes one step"):
        fit_edit(model, behavior.train[:60], rule="least-squares", steps=2)
    with pytest.raises(RecipeError, match="expected 1 or more"):
        fit_edit(model, behavior.train[:60], steps=0)
