"""The strength at which an intervention costs a given divergence, so that methods compare."""

import math
from collections.abc import Callable
from dataclasses import dataclass

ROUNDS = 12  # of correcting a strength
NEAR = 0.1  # share by which a divergence may miss its target
MOST_STEP = 4.0


@dataclass(frozen=True)
class Matched:
    """A strength, and the divergence that it was found to have on validation text.

    Attributes:
        strength: the strength.
        divergence: mean KL(base ‖ changed), nats per token.
        is_met: whether that is the target, within a tenth; a method whose strength has a limit may
            not reach it, and one that jumps may pass it.
    """

    strength: float
    divergence: float
    is_met: bool


def match_divergence(
    divergence: Callable[[float], float],
    target: float,
    *,
    first: float = 1.0,
    most: float | None = None,
) -> Matched:
    """Find the strength at which a divergence is a target's, within a tenth.

    Divergence grows about as the square of the strength, which proposes the next one; where it lies
    on both sides of the target, the strength between is taken.

    Args:
        divergence: measures it at a strength.
        target: nats per token.
        first: strength to begin with.
        most: the largest that has a meaning.

    Returns:
        The strength found, or the nearest one below the target that was measured; of those measured
        the weakest where all are above it.
    """
    limit = math.inf if most is None else most
    strength, low, high = min(first, limit), 0.0, math.inf
    measured: list[Matched] = []
    for _ in range(ROUNDS):
        found = divergence(strength)
        found = found if math.isfinite(found) else math.inf
        is_met = abs(found / target - 1) <= NEAR
        measured.append(Matched(strength, found, is_met))
        if is_met or (found < target and strength == limit):
            return measured[-1]
        low, high = (strength, high) if found < target else (low, strength)
        step = math.sqrt(target / found) if 0 < found < math.inf else MOST_STEP
        step = 1 / MOST_STEP if found == math.inf else step
        wanted = min(strength * min(MOST_STEP, max(1 / MOST_STEP, step)), limit)
        if high < math.inf and low > 0 and not low < wanted < high:
            wanted = math.sqrt(low * high)
        strength = wanted
    below = [one for one in measured if one.divergence <= target]
    if below:
        return max(below, key=lambda one: one.strength)
    return min(measured, key=lambda one: one.strength)
