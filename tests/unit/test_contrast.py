"""What texts an edit pulls apart, and which of them stay together."""

from collections import Counter

import pytest

from modelsurgery.data.texts import LabeledText
from modelsurgery.rules.contrast import Contrast, contrast_of

PAIRS = [
    LabeledText(f"text {number} {label}", label, group=f"pair {number}")
    for number in range(23)
    for label in (1, 0)
]
EXCHANGES = [
    LabeledText(f"{asked} {number}", label, reply=f"{said} {number}", called_for=called_for)
    for number in range(3)
    for called_for, asked in ((True, "harmful"), (False, "harmless"))
    for label, said in ((1, "no"), (0, "yes"))
]


def by_sense(contrast: Contrast) -> dict[tuple[bool | None, int], tuple[float, float, float]]:
    """Gain, request and reply by (called for, label) of each kind's texts."""
    found = {}
    for kind in contrast.kinds:
        ((sense),) = {(text.called_for, text.label) for text in kind.texts}
        found[sense] = (kind.gain, kind.request, kind.reply)
    return found


@pytest.mark.parametrize("sign", [1, -1])
def test_labels_alone_make_two_kinds_whichever_way_the_edit_goes(sign: int) -> None:
    contrast = contrast_of(PAIRS, sign=sign, weight=0.5)
    assert by_sense(contrast) == {(None, 1): (1, 0, 1), (None, 0): (-1, 0, -1)}
    assert contrast.weight == 0.5
    assert len(contrast.senses) == 1
    assert {text for kind in contrast.kinds for text in kind.texts} == set(PAIRS)


@pytest.mark.parametrize("sign", [1, -1])
def test_requests_make_four_kinds_and_the_behavior_is_never_wanted_uncalled(sign: int) -> None:
    contrast = contrast_of(EXCHANGES, sign=sign)
    assert len(contrast.senses) == 2
    # What is wanted of an edit that goes `sign` times the proposal: the loss of replies that show
    # the behavior rises where it goes away from it, and always where nothing calls for it.
    wanted = {sense: sign * gain for sense, (gain, _, _) in by_sense(contrast).items()}
    assert wanted == {(True, 1): sign, (True, 0): -sign, (False, 1): 1, (False, 0): -1}
    others = {sense: values[1:] for sense, values in by_sense(contrast).items()}
    assert others == {
        (True, 1): (1, 1), (True, 0): (1, -1), (False, 1): (-1, 1), (False, 0): (-1, -1),
    }  # fmt: skip
    assert len({kind.name for kind in contrast.kinds}) == 4


def test_a_kind_without_texts_is_left_out() -> None:
    texts = [text for text in EXCHANGES if text.called_for or text.label == 0]
    assert set(by_sense(contrast_of(texts))) == {(True, 1), (True, 0), (False, 0)}


def test_folds_keep_groups_together_and_are_balanced() -> None:
    folds = contrast_of(PAIRS).folds(5, seed=0)
    assert [sorted(map(len, kind)) for kind in folds] == [[4, 4, 5, 5, 5]] * 2
    places = [
        {text.group: place for place, fold in enumerate(kind) for text in fold} for kind in folds
    ]
    assert places[0] == places[1]
    assert sorted(text.text for kind in folds for fold in kind for text in fold) == sorted(
        text.text for text in PAIRS
    )


def test_several_texts_of_a_group_share_a_fold() -> None:
    texts = [LabeledText(f"{number} {label}", label, f"g{number // 3}") for number in range(30)
             for label in (0, 1)]  # fmt: skip
    for kind in contrast_of(texts).folds(5, seed=1):
        assert [len(fold) for fold in kind] == [6] * 5
        per_fold = [{text.group for text in fold} for fold in kind]
        assert Counter(len(groups) for groups in per_fold) == {2: 5}
        assert len(set().union(*per_fold)) == 10


def test_texts_without_groups_are_spread_evenly_by_the_seed() -> None:
    texts = [LabeledText(f"{label} {number}", label) for label in (0, 1) for number in range(10)]
    contrast = contrast_of(texts)
    one, again, other = (contrast.folds(5, seed) for seed in (0, 0, 1))
    assert [[len(fold) for fold in kind] for kind in one] == [[2] * 5] * 2
    assert one == again
    assert one != other


def test_a_group_of_two_kinds_is_in_one_fold_where_others_are_of_one_kind() -> None:
    shows = [LabeledText(f"a {number}", 1, f"g{number}") for number in range(20)]
    opposite = [LabeledText(f"b {number}", 0, f"g{number}") for number in range(10, 30)]
    places: dict[str | None, set[int]] = {}
    for kind in contrast_of([*shows, *opposite]).folds(5, seed=0):
        for place, fold in enumerate(kind):
            for text in fold:
                places.setdefault(text.group, set()).add(place)
    assert len(places) == 30
    assert all(len(some) == 1 for some in places.values())
