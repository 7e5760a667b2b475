"""What an edit's rows are predicted to do, and what the whole edit was measured to do.

Both are in nats per token. The gain is the rise of the loss on texts that show the behavior minus
that on their opposites, negative for an edit toward it. The price is the divergence on neutral
text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Prediction:
    """What a rule expects of the k rows of an update, to first order for the gain.

    Parts of a row that lie in several updates, one for each direction, add up.
    """

    gains: NDArray[np.float32]  # [k] float32, nats per token
    prices: NDArray[np.float32]  # [k] float32, KL(base ‖ edited) of the row alone, nats per token

    def scaled(self, factor: float) -> "Prediction":
        """The same of an update `factor` times as strong."""
        by = np.float32(factor)
        return Prediction(self.gains * by, self.prices * np.square(by))


@dataclass(frozen=True)
class Measurement:
    """What an edit did to texts that its strength was chosen on."""

    gain: float  # nats per token
    divergence: float  # mean KL(base ‖ edited) on neutral text, nats per token
    # Of several behaviors at once, by name, how far the losses of each were pulled apart the way
    # that was asked for; their weighted sum is the size of `gain`.
    by_behavior: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The same as plain values; `by_behavior` where there are several."""
        found: dict[str, Any] = {"gain": self.gain, "divergence": self.divergence}
        if self.by_behavior:
            found["by_behavior"] = dict(self.by_behavior)
        return found
