"""From what a rule says of all rows to an edit of the best ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from modelsurgery.checkpoint.layouts import Address, GateMatrix
from modelsurgery.checkpoint.rows import RowView
from modelsurgery.edit.edit import Edit
from modelsurgery.edit.edit_file import load_edit, save_edit
from modelsurgery.edit.effects import Measurement, Prediction
from modelsurgery.edit.explanation import explain
from modelsurgery.errors import ArtifactError, CheckpointError, RecipeError
from modelsurgery.rules.proposal import RowProposal

MATRICES, ROWS, WIDTH = 3, 6, 4
GATES = tuple(
    GateMatrix(RowView(f"gate.{block}", "F32", ROWS, WIDTH, 0, WIDTH, 1), block)
    for block in range(MATRICES)
)
MEAN_NORM = 2.5


def proposal(directions: int = 1) -> RowProposal:
    """Slopes b and prices F of rows, with c = b / F."""
    generator = np.random.default_rng(directions)
    slopes, prices = (
        generator.normal(size=(MATRICES, directions, ROWS)),
        generator.uniform(0.5, 2, size=(MATRICES, directions, ROWS)),
    )
    coefficients = slopes / prices
    gains = slopes * coefficients
    return RowProposal(
        "natural-gradient",
        GATES,
        tuple(generator.normal(size=(MATRICES, directions, WIDTH)).astype(np.float32)),
        tuple(gains.sum(1)),
        tuple(coefficients),
        MEAN_NORM,
        tuple(gains),
        tuple(prices * coefficients**2 / 2),
    )


def added(edit: Edit) -> dict[tuple[int, int], NDArray[np.float64]]:
    """What is added to each row, by block and row."""
    found: dict[tuple[int, int], NDArray[np.float64]] = {}
    for update in edit.updates:
        for row, part in zip(update.rows, update.coefficients, strict=True):
            place = (update.address.block, int(row))
            vector = float(part) * update.direction.astype(np.float64)
            found[place] = found.get(place, np.zeros(WIDTH)) + vector
    return found


@pytest.mark.parametrize("directions", [1, 2])
def test_the_rows_with_the_highest_scores_get_their_coefficients(directions: int) -> None:
    made = proposal(directions)
    edit = made.edit(7)
    scores = np.stack(made.scores)
    best = {divmod(int(place), ROWS) for place in np.argsort(-scores.flatten())[:7]}
    found = added(edit)
    assert set(found) == best
    assert edit.row_count == 7
    assert edit.candidate_rows == MATRICES * ROWS
    for (block, row), vector in found.items():
        whole = made.coefficients[block][:, row] @ made.directions[block].astype(np.float64)
        np.testing.assert_allclose(vector, edit.alpha * whole, rtol=1e-5)


@pytest.mark.parametrize(("count", "expected"), [(1, [(0, 0)]), (8, [(0, 0), (0, 1), (0, 2),
    (0, 3), (0, 4), (0, 5), (1, 0), (1, 1)])])  # fmt: skip
def test_ties_go_to_the_first_matrix_and_row(count: int, expected: list[tuple[int, int]]) -> None:
    alike = replace(proposal(), scores=tuple(np.ones((MATRICES, ROWS))))
    assert sorted(added(alike.edit(count))) == expected


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("strength", [1.0, 0.3, -2.0])
def test_strength_is_the_root_mean_square_of_what_is_added(
    strength: float, directions: int
) -> None:
    edit = proposal(directions).edit(0.4, strength=strength)
    squares = [np.square(vector).sum() for vector in added(edit).values()]
    assert edit.strength == strength
    assert np.sqrt(np.mean(squares)) / MEAN_NORM == pytest.approx(abs(strength), rel=1e-6)
    forward = proposal(directions).edit(0.4)
    for place, vector in added(edit).items():
        np.testing.assert_allclose(vector, strength * added(forward)[place], rtol=1e-5)


def test_two_directions_make_two_updates_a_matrix_of_the_same_rows() -> None:
    made = proposal(2)
    edit = made.edit(9)
    for block in {update.address.block for update in edit.updates}:
        both = [update for update in edit.updates if update.address == Address(block, "mlp", -1)]
        assert len(both) == 2
        assert both[0].rows.tolist() == both[1].rows.tolist()
        for update, direction in zip(both, made.directions[block], strict=True):
            assert update.direction.tolist() == direction.tolist()
    assert edit.row_count == 9


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_predictions_are_those_of_the_edits_own_coefficients(strength: float) -> None:
    generator = np.random.default_rng(1)
    slopes = generator.normal(size=(MATRICES, 1, ROWS))
    prices = generator.uniform(0.5, 2, size=(MATRICES, 1, ROWS))
    made = proposal(1)
    edit = made.edit(8, strength=strength)
    gain = divergence = 0.0
    for update in edit.updates:
        here = (update.address.block, 0, update.rows)
        gain += float((slopes[here] * update.coefficients).sum())
        divergence += float((prices[here] * np.square(update.coefficients)).sum()) / 2
    assert gain * strength > 0
    explained = explain(edit)
    assert explained is not None
    assert (explained.gain, explained.divergence) == pytest.approx((gain, divergence), rel=1e-5)


def test_layers_and_rows_add_up_to_the_prediction() -> None:
    made = proposal(2)
    explained = explain(made.edit(9, layers=(2, 3), strength=0.7))
    assert explained is not None
    assert [one.layer for one in explained.layers] == [2, 3]
    assert sum(one.rows for one in explained.layers) == 9
    assert len(explained.rows) == 9
    for parts in (explained.layers, explained.rows):
        assert sum(one.gain for one in parts) == pytest.approx(explained.gain)
        assert sum(one.divergence for one in parts) == pytest.approx(explained.divergence)
        assert sum(one.share for one in parts) == pytest.approx(1)
    second = made.edit(ROWS, layers=(2, 2), strength=0.7)
    only = explain(second)
    assert only is not None
    assert only.gain == pytest.approx(second.alpha * made.scores[1].sum())


def test_rows_are_told_in_the_order_in_which_they_were_chosen() -> None:
    made = proposal(2)
    edit = made.edit(9, strength=-0.7)
    explained = explain(edit, most_rows=4)
    assert explained is not None
    best = np.argsort(-np.stack(made.scores).flatten())[:4]
    assert [(one.layer - 1, one.row) for one in explained.rows] == [
        divmod(int(place), ROWS) for place in best
    ]
    first = explained.rows[0]
    block = first.layer - 1
    expected = edit.alpha * made.coefficients[block][:, first.row]
    assert first.coefficients == pytest.approx(tuple(expected), rel=1e-6)
    assert first.gain == pytest.approx(edit.alpha * made.scores[block][first.row])
    assert made.divergences is not None
    price = edit.alpha**2 * made.divergences[block][:, first.row].sum()
    assert first.divergence == pytest.approx(price)
    assert first.gain < 0 < first.share


@pytest.mark.parametrize("directions", [1, 2])
def test_a_stored_edit_is_explained_as_the_one_in_memory(directions: int, tmp_path: Path) -> None:
    edit = replace(proposal(directions).edit(5), measured=Measurement(0.25, 0.01))
    save_edit(edit, tmp_path / "e.safetensors")
    assert explain(load_edit(tmp_path / "e.safetensors")) == explain(edit)
    explained = explain(edit)
    assert explained is not None
    assert explained.to_json()["measured"] == {"gain": 0.25, "divergence": 0.01}


def test_another_strength_and_a_sum_were_not_measured() -> None:
    edit = replace(proposal().edit(5), measured=Measurement(0.25, 0.01))
    half = explain(edit.scaled(0.5))
    whole = explain(edit)
    assert half is not None
    assert whole is not None
    assert half.measured is None
    assert half.gain == pytest.approx(whole.gain / 2, rel=1e-6)
    assert half.divergence == pytest.approx(whole.divergence / 4, rel=1e-6)
    both = edit + proposal().edit(3)
    assert both.measured is None
    assert explain(both) is None


@pytest.mark.parametrize("broken", [np.array([np.nan], np.float32), np.zeros(2, np.float32)])
def test_a_file_with_malformed_predictions_is_refused(
    broken: NDArray[np.float32], tmp_path: Path
) -> None:
    edit = proposal().edit(1)
    update = replace(edit.updates[0], predicted=Prediction(broken, np.zeros(1, np.float32)))
    save_edit(replace(edit, updates=(update,)), tmp_path / "e.safetensors")
    with pytest.raises(ArtifactError, match="predictions of update 0 are malformed"):
        load_edit(tmp_path / "e.safetensors")


def test_a_share_of_each_matrix() -> None:
    edit = proposal().edit(0.5, per_layer=True)
    assert [len(update.rows) for update in edit.updates] == [3, 3, 3]


def test_a_rule_that_predicts_nothing_says_nothing() -> None:
    made = replace(proposal(), gains=None, divergences=None)
    assert explain(made.edit(3)) is None


def test_what_cannot_be_edited_is_refused() -> None:
    with pytest.raises(RecipeError):
        proposal().edit(MATRICES * ROWS + 1)
    for value in (0.0, np.nan):
        nothing = replace(proposal(), coefficients=tuple(np.full((MATRICES, 1, ROWS), value)))
        with pytest.raises(CheckpointError, match="no measurable effect"):
            nothing.edit(3)
