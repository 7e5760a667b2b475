"""What an edit is asked to do: texts of one behavior or of several, each with a direction."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from modelsurgery.data.texts import LabeledText, Split, split_texts
from modelsurgery.edit.option_names import Direction
from modelsurgery.errors import RecipeError, TextsError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Target:
    """A behavior that an edit moves."""

    texts: tuple[LabeledText, ...]  # labeled texts
    direction: Direction = "away"  # `away` from the behavior or `toward` it
    name: str | None = None  # of the behavior; None of one alone that needs none
    weight: float = 1.0  # of this behavior among several, positive

    @property
    def sign(self) -> int:
        """1 away from the behavior, -1 toward it."""
        return -1 if self.direction == "toward" else 1

    def split(self, test_size: float, seed: int) -> Split:
        """Texts to make the edit from, and a share to see what it does.

        Raises:
            TextsError: one side would lack a label.
        """
        try:
            return split_texts(self.texts, test_size=test_size, seed=seed)
        except TextsError as error:
            if self.name is None:
                raise
            raise TextsError(f"texts of {self.name}: {error}") from error


def targets_of(
    texts: Sequence[LabeledText] | Mapping[str, Sequence[LabeledText]],
    direction: Direction | Mapping[str, Direction] = "away",
    weights: Mapping[str, float] | None = None,
) -> tuple[Target, ...]:
    """Targets of texts, of one behavior or by the name of each.

    Args:
        texts: of one behavior, or of several by name.
        direction: of all behaviors, or of each by name.
        weights: of each behavior by name; None weighs all alike.

    Raises:
        RecipeError: names that don't fit, an unknown direction, or a weight that is not positive.
    """
    if not isinstance(texts, Mapping):
        if weights is not None or isinstance(direction, Mapping):
            given = "weights" if weights is not None else "directions by name"
            raise RecipeError(f"{given} are for several behaviors; give texts by name too")
        return (Target(tuple(texts), _checked(direction)),)
    if not texts:
        raise RecipeError("no behaviors; expected texts of at least one behavior, by name")
    directions: Mapping[str, Direction] = _by_name("direction", direction, texts)
    weighed = _by_name("weight", 1.0 if weights is None else weights, texts)
    for name, weight in weighed.items():
        if not 0 < weight < math.inf:
            raise RecipeError(
                f"weight {weight:g} of {name}; expected a positive number (set the sign with the "
                "direction)"
            )
    return tuple(
        Target(tuple(some), _checked(directions[name]), name, weighed[name])
        for name, some in texts.items()
    )


def _checked(direction: Direction) -> Direction:
    if direction not in ("away", "toward"):
        raise RecipeError(f"direction {direction!r}; expected away or toward")
    return direction


def _by_name(
    what: str, given: Value | Mapping[str, Value], texts: Mapping[str, Sequence[LabeledText]]
) -> Mapping[str, Value]:
    """A value for each behavior; one that is given without names is that of all."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(texts, given)
    if set(given) != set(texts):
        raise RecipeError(
            f"each behavior needs a {what}: expected {', '.join(texts)}, got "
            f"{', '.join(given) or 'none'}"
        )
    return given
