"""How much damage an edit may do, and how much of that it does."""

import math
from dataclasses import dataclass, replace

from modelsurgery.evaluation.screening import Effect

SAFETY = 0.8  # of the budget is used: held-out text may suffer a little more than validation text

ONE_SIDED = 1.645  # standard errors


@dataclass(frozen=True)
class Budget:
    """Limits of the damage; None does not limit."""

    # Relative rise of the perplexity of neutral text, 0.05 for +5 %.
    perplexity_rise: float | None = 0.02
    # Mean KL from the base over all positions of neutral text, nats; also of the model's own
    # answers where there are some: the larger one counts.
    divergence: float | None = 0.02
    # Points of exact match on facts; where there are none, of the next tokens of neutral text.
    capability_drop: float | None = 2.0
    # Points by which prompts that do not call for the behavior may show it more often.
    uncalled_rise: float | None = None

    def used(self, effect: Effect) -> dict[str, float]:
        """Share of each limit that an effect takes; NaN where the edit broke the model."""
        found: dict[str, float] = {}
        if self.perplexity_rise is not None:
            found["perplexity"] = effect.clean / math.log1p(self.perplexity_rise)
        if self.divergence is not None:
            found["divergence"] = effect.worst_divergence / self.divergence
        if self.capability_drop is not None:
            found["capability"] = _share(100 * effect.capability_lost, self.capability_drop)
        if self.uncalled_rise is not None:
            found["uncalled_for"] = _share(100 * effect.uncalled, self.uncalled_rise)
        return found

    def allows(self, effect: Effect, share: float = SAFETY) -> bool:
        """Whether an effect stays inside a share of every limit; a broken model does not."""
        return all(used <= share for used in self.used(effect).values())

    def use(self, effect: Effect) -> float:
        """The largest share of a limit that an effect takes, at least a ten-thousandth.

        Without any limit the divergence itself stands for it.
        """
        shares = self.used(effect).values() or [effect.worst_divergence]
        return max(*shares, 1e-4)

    def broken(self, effect: Effect) -> tuple[str, ...]:
        """The limits that an effect is over, on data that no choice was made on.

        A limit is over when chance does not explain it (one-sided 95 % interval): texts and prompts
        are few, and perplexity of a thousand tokens moves by half a per cent for no reason.
        """
        least = self.used(
            replace(
                effect,
                clean=effect.clean - ONE_SIDED * effect.clean_error,
                divergence=effect.divergence - ONE_SIDED * effect.divergence_error,
                own=effect.own - ONE_SIDED * effect.own_error,
                capability_lost=effect.capability_lost - ONE_SIDED * effect.capability_error,
                uncalled=effect.uncalled - ONE_SIDED * effect.uncalled_error,
            )
        )
        return tuple(name for name, used in least.items() if not used <= 1)

    def binding(self, effect: Effect) -> tuple[str, float]:
        """Which limit an effect takes most of, and its share of it."""
        return max(self.used(effect).items(), key=lambda one: one[1], default=("nothing", 0.0))

    def without_uncalled(self) -> "Budget":
        """The same for a behavior that every prompt calls for."""
        return replace(self, uncalled_rise=None)


def _share(lost: float, limit: float) -> float:
    """Share of a limit that may be zero, both in points."""
    if limit:
        return lost / limit
    return math.inf if lost > 0 else 0.0
