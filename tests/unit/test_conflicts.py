"""What two edits do to each other, against dense matrices."""

from pathlib import Path

import numpy as np
import pytest
from test_edit import an_edit

from modelsurgery import Edit
from modelsurgery.edit.interactions import conflicts_of


def dense(edit: Edit) -> np.ndarray:
    """All that an edit adds, as one long vector."""
    places = {}
    for update in edit.updates:
        added = places.setdefault(update.address, np.zeros(update.shape))
        added[update.rows] += np.outer(update.coefficients, update.direction)
    return places


def product(one: Edit, other: Edit) -> float:
    mine, theirs = dense(one), dense(other)
    return sum(float((mine[at] * theirs[at]).sum()) for at in mine.keys() & theirs.keys())


def test_shares_are_those_of_the_dense_updates(tiny_llama: Path) -> None:
    first, second = an_edit(tiny_llama, 0, rows=80), an_edit(tiny_llama, 1, rows=60).scaled(-0.5)
    (found,) = conflicts_of([first, second])
    assert found.first_changed == pytest.approx(product(first, second) / product(first, first))
    assert found.second_changed == pytest.approx(product(first, second) / product(second, second))
    directions = [edit.updates[0].direction.astype(float) for edit in (first, second)]
    norms = [np.linalg.norm(one) for one in directions]
    assert found.cosine == pytest.approx(np.dot(*directions) / np.prod(norms))
    lengths = product(first, first) ** 0.5, product(second, second) ** 0.5
    expected = product(first, second) / (lengths[0] * lengths[1])
    assert found.cosine_of_changes == pytest.approx(expected)
    rows = [{(one.address, row) for one in edit.updates for row in one.rows.tolist()}
            for edit in (first, second)]  # fmt: skip
    assert found.rows == (80, 60)
    assert found.shared_rows == len(rows[0] & rows[1]) > 0


def test_verdicts(tiny_llama: Path) -> None:
    edit = an_edit(tiny_llama, 0)
    other = an_edit(tiny_llama, 1)
    assert conflicts_of([edit]) == ()
    assert conflicts_of([edit, edit.scaled(0.5)])[0].verdict == "strengthen each other"
    assert conflicts_of([edit, -edit])[0].verdict == "work against each other"
    assert conflicts_of([edit, -edit])[0].first_changed == pytest.approx(-1)
    assert conflicts_of([edit, -edit])[0].cosine_of_changes == pytest.approx(-1)
    pairs = conflicts_of([edit, other, edit])
    assert [(one.first, one.second) for one in pairs] == [(0, 1), (0, 2), (1, 2)]
