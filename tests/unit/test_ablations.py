"""Ablations change one thing, and other matrices take the same rule."""

import numpy as np
import pytest
import torch

from less_data import less_data
from modelsurgery import Edit, demo_model_path, load_model
from modelsurgery.data.behaviors import describe_behavior, load_behavior
from modelsurgery.rivals import Materials, gather_materials
from modelsurgery.rivals.ablations import ABLATIONS
from modelsurgery.rivals.edits import intervention_of, proposal_of
from modelsurgery.rivals.intervention import EditIntervention, Reweighted
from modelsurgery.rivals.matching import match_divergence


@pytest.fixture(scope="module")
def given() -> Materials:
    model = load_model(demo_model_path())
    with less_data():
        behavior = load_behavior(describe_behavior("toxicity"), is_demo=True)
    return gather_materials(model, behavior, texts=60)


def edit_of(name: str, given: Materials) -> EditIntervention:
    found = ABLATIONS[name].fit(given)
    assert isinstance(found, EditIntervention)
    return found


def one_step(given: Materials) -> Edit:
    return intervention_of(given, proposal_of(given, "natural-gradient")).edit


def blocks_of(found: EditIntervention) -> set[int]:
    return {update.address.block for update in found.edit.updates if len(update.rows)}


def test_a_quarter_is_left_out(given: Materials) -> None:
    assert {one.address.block for one in one_step(given).updates} == {0, 1, 2, 3}
    for number in (1, 2, 3, 4):
        for rule in ("", "paper-"):
            found = edit_of(f"{rule}without-q{number}", given)
            assert blocks_of(found) == {0, 1, 2, 3} - {number - 1}
            assert found.edit.row_count == one_step(given).row_count


def test_shares_of_rows(given: Materials) -> None:
    assert edit_of("rows-0.01", given).edit.row_count == 26
    assert edit_of("rows-1", given).edit.row_count == 2560
    assert edit_of("paper-rows-0.2", given).edit.row_count == 512


def test_random_rows_keep_what_each_row_gets(given: Materials) -> None:
    proposal = proposal_of(given, "natural-gradient")
    edit = edit_of("random-rows", given).edit
    best = one_step(given)
    places = {gate.address: index for index, gate in enumerate(proposal.gates)}
    ratios = np.concatenate(
        [one.coefficients / proposal.coefficients[places[one.address]][0, one.rows]
         for one in edit.updates]
    )  # fmt: skip
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-4)
    rows = [{(u.address, int(row)) for u in one.updates for row in u.rows} for one in (edit, best)]
    assert len(rows[0] & rows[1]) < 0.3 * len(rows[1])


def test_equal_coefficients_and_random_directions_keep_the_rows(given: Materials) -> None:
    best = one_step(given)
    for name in ("equal", "random-direction"):
        other = edit_of(name, given).edit
        for one, two in zip(best.updates, other.updates, strict=True):
            assert one.rows.tolist() == two.rows.tolist()
            if name == "equal":
                size = np.abs(two.coefficients)
                np.testing.assert_allclose(size, size[0], rtol=1e-5)
                assert (np.sign(one.coefficients) == np.sign(two.coefficients)).all()
            else:
                cosine = float(one.direction @ two.direction) / float(
                    np.linalg.norm(one.direction) * np.linalg.norm(two.direction)
                )
                assert abs(cosine) < 0.4


def test_most_aligned_rows_are_the_other_end(given: Materials) -> None:
    usual, aligned = edit_of("paper", given).edit, edit_of("paper-aligned", given).edit
    assert all((one.coefficients > 0).all() for one in usual.updates)
    assert all((one.coefficients < 0).all() for one in aligned.updates)
    rows = [{(u.address, int(row)) for u in one.updates for row in u.rows}
            for one in (usual, aligned)]  # fmt: skip
    assert not rows[0] & rows[1]


def test_the_gate_matrix_is_what_the_rule_itself_edits(given: Materials) -> None:
    """The same arithmetic in memory, but for what neutral text loses, which is not counted."""
    made = ABLATIONS["matrix-gate"].fit(given)
    assert isinstance(made, Reweighted)
    proposal = proposal_of(given, "natural-gradient", damping=0.1)
    edit = proposal.edit(strength=0.4)
    wanted = {one.address.block: one for one in edit.updates}
    scales = []
    for block, (path, held) in enumerate(made.held.items()):
        matrix = given.model.model.get_submodule(path).weight.data
        added = made.change(matrix, held, 1.0) - matrix
        rows = torch.nonzero(added.abs().sum(1)).flatten()
        assert rows.tolist() == wanted[block].rows.tolist()
        expected = np.outer(wanted[block].coefficients, wanted[block].direction)
        ratio = added[rows].numpy() / expected
        scales.append(np.median(ratio))
        np.testing.assert_allclose(ratio, scales[-1], rtol=1e-2)
    np.testing.assert_allclose(scales, scales[0], rtol=1e-3)


@pytest.mark.parametrize("name", ["matrix-up", "matrix-o"])
def test_other_matrices_move_the_behavior_too(name: str, given: Materials) -> None:
    found = ABLATIONS[name].fit(given)

    def divergence(strength: float) -> float:
        with found.applied(given.model, strength):
            return given.validation.measure_changed().divergence

    matched = match_divergence(divergence, 0.01, first=found.first)
    assert matched.is_met
    with found.applied(given.model, matched.strength):
        assert given.validation.measure_changed().selectivity > 0
