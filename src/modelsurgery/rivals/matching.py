"""The strength at which an intervention costs a given divergence, so that methods compare."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

ROUNDS = 12  # of correcting a strength
NEAR = 0.1  # share by which a divergence may miss its target
MOST_STEP = 4.0
LEAST_PART = 0.1  # of the way between two strengths that a step goes
BY_STRENGTH = attrgetter("strength")


@dataclass(frozen=True)
class Matched:
    """A strength, and the divergence that it was found to have on validation text."""

    strength: float  # the strength
    divergence: float  # mean KL(base ‖ changed), nats per token
    # Whether that is the target, within a tenth; a method whose strength has a limit may not reach
    # it, and one that jumps may pass it.
    is_met: bool


def match_divergence(
    divergence: Callable[[float], float],
    target: float,
    *,
    first: float = 1.0,
    most: float | None = None,
) -> Matched:
    """Find the strength at which a divergence, nats per token, is the target, within a tenth.

    Divergence grows about as the square of the strength, which proposes the next one; once it was
    measured on both sides of the target, a power law through the nearest two does. The search
    begins at `first` and never goes above `most`.

    Where no strength is found it is the nearest one below the target that was measured; of those
    measured the weakest where all are above it.
    """
    limit = math.inf if most is None else most
    strength = min(first, limit)
    measured: list[Matched] = []
    for _ in range(ROUNDS):
        found = divergence(strength)
        found = found if math.isfinite(found) else math.inf
        is_met = abs(found / target - 1) <= NEAR
        measured.append(Matched(strength, found, is_met))
        if is_met or (found < target and strength == limit):
            return measured[-1]
        is_switch = len(measured) > 1 and {one.divergence for one in measured} == {found}
        if is_switch and target < found < math.inf:
            break  # any strength is the same
        strength = min(_next(measured, target), limit)
    below = [one for one in measured if one.divergence <= target]
    if below:
        return max(below, key=BY_STRENGTH)
    return min(measured, key=BY_STRENGTH)


def _next(measured: list[Matched], target: float) -> float:
    """The square law where all is on one side of the target, else between the nearest two."""
    low = max((m for m in measured if m.divergence < target), key=BY_STRENGTH, default=None)
    high = min((m for m in measured if m.divergence >= target), key=BY_STRENGTH, default=None)
    if low is None or high is None:
        last = measured[-1]
        law = math.sqrt(target / last.divergence) if last.divergence > 0 else MOST_STEP
        return float(last.strength * min(MOST_STEP, max(1 / MOST_STEP, law)))
    part = 0.5  # where the model broke, or nothing happened yet
    if 0 < low.divergence < high.divergence < math.inf:
        part = math.log(target / low.divergence) / math.log(high.divergence / low.divergence)
    part = min(max(part, LEAST_PART), 1 - LEAST_PART)
    return float(low.strength * (high.strength / low.strength) ** part)
