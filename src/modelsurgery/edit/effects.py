"""What an edit's rows are predicted to do, and what the whole edit was measured to do.

Both in nats a token. The gain is the rise of the loss on texts that show the behavior over that on
their opposites, negative for an edit toward it; the price is the divergence on neutral text.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Prediction:
    """What a rule expects of the k rows of an update, to first order for the gain.

    Parts of a row that lie in several updates, one for each direction, add up.

    Attributes:
        gains: [k] float32, nats a token.
        prices: [k] float32, KL(base ‖ edited) of the row alone, nats a token.
    """

    gains: NDArray[np.float32]
    prices: NDArray[np.float32]

    def scaled(self, factor: float) -> "Prediction":
        """The same of an update `factor` times as strong."""
        by = np.float32(factor)
        return Prediction(self.gains * by, self.prices * np.square(by))


@dataclass(frozen=True)
class Measurement:
    """What an edit did to texts that its strength was chosen on.

    Attributes:
        gain: nats a token.
        divergence: mean KL(base ‖ edited) on neutral text, nats a token.
    """

    gain: float
    divergence: float
