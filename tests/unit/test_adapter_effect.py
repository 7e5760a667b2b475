"""An adapter's effect is told from the rounding of a server."""

import numpy as np
import pytest

from modelsurgery.errors import EvaluationError
from modelsurgery.evaluation.generation.adapter_effect import check_effect

PROMPTS, TOKENS = 16, 5


def answers(rng: np.random.Generator, effect: float, noise: float) -> list[dict[str, float]]:
    """Log-probabilities that an adapter has moved up by `effect`, and a server has rounded."""
    return [
        {str(token): effect - token + noise * rng.normal() for token in range(TOKENS)}
        for _ in range(PROMPTS)
    ]


@pytest.mark.parametrize("noise", [0.0, 1e-6, 0.02])
@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_effect_and_an_effect_above_it_is_one(noise: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = [answers(rng, 0.0, noise) for _ in range(2)]
    with pytest.raises(EvaluationError, match="as without it") as raised:
        check_effect("http://host", base, [answers(rng, 0.0, noise) for _ in range(2)])
    assert "\n" not in str(raised.value)
    effect = max(1e-3, 5 * noise)
    check_effect("http://host", base, [answers(rng, effect, noise) for _ in range(2)])


def test_tokens_that_only_one_side_has_are_left_out() -> None:
    base = [[{"a": -1.0, "b": -2.0}]] * 2
    with pytest.raises(EvaluationError):
        check_effect("http://host", base, [[{"a": -1.0, "c": -9.0}]] * 2)
    check_effect("http://host", base, [[{"c": -1.0, "d": -2.0}]] * 2)  # all others
    with pytest.raises(EvaluationError):
        check_effect("http://host", [[{}]] * 2, [[{}]] * 2)  # nothing is known
