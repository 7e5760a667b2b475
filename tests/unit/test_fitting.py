"""Which proposal of a rule serves, by what its edit costs."""

import math
from typing import cast

import pytest

from modelsurgery import Edit
from modelsurgery.evaluation.screening import Effect
from modelsurgery.files.provenance import Provenance
from modelsurgery.rules.proposal import RowProposal
from modelsurgery.search import Budget, FittedStrength
from modelsurgery.search.fitting import RULE_STRENGTH, FittedRule

EDITS = {name: Edit((), 1.0, 1.0, 1, Provenance()) for name in ("plain", "kept")}


def chosen(rise: float, *, kept_gap: float, limit: float | None = 0.02, keeps: bool = True) -> str:
    """Name of the proposal that serves when the plain edit raises perplexity by `rise`."""
    effects = {
        "plain": Effect(2.0, 0.0, math.log1p(rise), 0.02, 0.0),
        "kept": Effect(kept_gap, 0.0, 0.0, 0.02, 0.0),
    }
    proposals = {cast("RowProposal", name): name for name in effects}
    rule = FittedRule(
        lambda _: cast("RowProposal", "plain"),
        keeping=(lambda: cast("RowProposal", "kept")) if keeps else None,
    )

    def strengthen(edit: Edit, first: float) -> FittedStrength:
        # The second search begins where the first one ended.
        assert first == (RULE_STRENGTH if edit is EDITS["plain"] else EDITS["plain"].strength)
        (name,) = (name for name, one in EDITS.items() if one is edit)
        return FittedStrength(edit, effects[name], ())

    found = rule.fit(lambda one: EDITS[proposals[one]], strengthen, Budget(limit, 0.02, None))
    assert found.fitted.edit is EDITS[proposals[found.proposal]]
    assert found.is_kept == (found.fitted.edit is EDITS["kept"])
    return proposals[found.proposal]


@pytest.mark.parametrize(
    ("rise", "kept_gap", "expected"),
    [
        (0.009, 2.0, "plain"),  # less than half of the budget
        (0.011, 1.61, "kept"),
        (0.011, 1.59, "plain"),  # gives up too much
        (0.011, 2.5, "kept"),
    ],
)
def test_neutral_text_counts_where_perplexity_takes_its_budget(
    rise: float, kept_gap: float, expected: str
) -> None:
    assert chosen(rise, kept_gap=kept_gap) == expected


def test_without_a_limit_or_another_proposal_the_plain_edit_serves() -> None:
    assert chosen(0.5, kept_gap=2.0, limit=None) == "plain"
    assert chosen(0.5, kept_gap=2.0, keeps=False) == "plain"
