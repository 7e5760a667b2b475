"""What an edit of several behaviors is asked to do, and what is refused."""

from typing import Any

import pytest

from modelsurgery.data.texts import LabeledText
from modelsurgery.errors import RecipeError, TextsError
from modelsurgery.search.targets import targets_of
from tiny import tiny_sentences

SOME = [LabeledText(text, number % 2) for number, text in enumerate(tiny_sentences(40))]
BOTH = {"one": SOME, "two": SOME[:20]}


def test_each_behavior_has_its_direction_and_weight() -> None:
    (alone,) = targets_of(SOME, "toward")
    assert (alone.name, alone.sign, alone.weight) == (None, -1, 1.0)
    one, two = targets_of(BOTH, {"two": "toward", "one": "away"}, {"one": 2.0, "two": 0.5})
    assert (one.name, one.sign, one.weight, len(one.texts)) == ("one", 1, 2.0, 40)
    assert (two.name, two.sign, two.weight, len(two.texts)) == ("two", -1, 0.5, 20)
    assert [target.sign for target in targets_of(BOTH, "toward")] == [-1, -1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((SOME, "sideways"), "direction 'sideways'; expected away or toward"),
        ((BOTH, {"one": "away", "two": "up"}), "direction 'up'; expected away or toward"),
        ((BOTH, {"one": "away"}), "needs a direction: expected one, two, got one"),
        ((BOTH, "away", {"one": 1.0, "three": 1.0}), "needs a weight: expected one, two, got one"),
        ((BOTH, "away", {"one": 1.0, "two": -1.0}), "weight -1 of two; expected a positive"),
        ((BOTH, "away", {"one": 1.0, "two": float("nan")}), "weight nan of two; expected"),
        ((SOME, "away", {"one": 1.0}), "weights are for several behaviors"),
        ((SOME, {"one": "away"}), "directions by name are for several behaviors"),
        (({},), "no behaviors; expected texts of at least one"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple[Any, ...], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        targets_of(*arguments)


def test_texts_that_cannot_be_split_name_their_behavior() -> None:
    few = [LabeledText("a", 1), LabeledText("b", 0)]
    _, two = targets_of({"one": SOME, "two": few})
    with pytest.raises(TextsError, match=r"texts of two: the .* part would lack a label"):
        two.split(0.25, 0)
