"""Words that probes and edits are made by; apart from them, so that `--help` imports no numpy."""

from typing import Literal, get_args

Direction = Literal["away", "toward"]
Fit = Literal["adam", "logistic", "mean-difference"]
DirectionSource = Literal["W1", "W1-W0", "mean-difference"]
FITS: tuple[Fit, ...] = get_args(Fit)
DIRECTION_SOURCES: tuple[DirectionSource, ...] = get_args(DirectionSource)
