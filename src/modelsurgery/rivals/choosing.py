"""Choosing among variants of a method, on validation texts alone.

Variants are compared by the selectivity that they would have at the same small divergence. Small
changes move selectivity with their strength and divergence with its square, so one measurement
near that divergence says it: selectivity · √(target / divergence), and never more than the largest
strength allows.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

from modelsurgery.evaluation.screening import Effect
from modelsurgery.rivals.intervention import Intervention
from modelsurgery.rivals.method import Materials

Variant = TypeVar("Variant", bound=Intervention)
CHOICE_DIVERGENCE = 0.02  # nats per token
FAR = 4.0  # times the target, from where on a variant is measured again
ATTEMPTS = 6


class Chooser:
    """Measures variants one after the other, each at the strength that served the one before."""

    def __init__(self, given: Materials) -> None:
        """Begin at strength 1."""
        self._given, self._strength = given, 1.0

    def score(self, variant: Intervention) -> float:
        """Selectivity expected at the divergence, or at the largest strength if that costs less.

        -inf where no measurement gives numbers.
        """
        most = math.inf if variant.most is None else variant.most
        found = -math.inf
        for _ in range(ATTEMPTS):
            strength = min(self._strength, most)
            with variant.applied(self._given.model, strength):
                effect = self._given.validation.measure_changed()
            reach = _reach(effect)
            if effect.is_finite:
                found = effect.selectivity * min(reach, most / strength)
            self._strength = min(strength * reach, most)
            if effect.is_finite and effect.divergence <= FAR * CHOICE_DIVERGENCE:
                break
        return found


def _reach(effect: Effect) -> float:
    """What the strength must be multiplied with to have the divergence."""
    if not effect.is_finite:
        return 1 / FAR
    return math.sqrt(CHOICE_DIVERGENCE / effect.divergence) if effect.divergence > 0 else 1.0


def best_layer(given: Materials, variants: Sequence[Variant]) -> Variant:
    """The variant with the highest score; of equal ones the first. They differ in a layer."""
    chooser = Chooser(given)
    with given.progress("choose layer", len(variants)) as advance:

        def score(variant: Variant) -> float:
            found = chooser.score(variant)
            advance(1)
            return found

        return max(variants, key=score)
