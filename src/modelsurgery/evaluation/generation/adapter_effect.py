"""Does a server apply an adapter? One that serves the base in silence shows "no change"."""

from collections.abc import Sequence

from modelsurgery.errors import EvaluationError

LEAST_EFFECT = 1e-4  # nats, mean over tokens; f32 rounds less, and no edit does so little

FirstTokens = Sequence[dict[str, float]]  # log-probabilities of first tokens, a prompt each


def check_effect(server: str, base: Sequence[FirstTokens], edited: Sequence[FirstTokens]) -> None:
    """Compare a model's answers to the same prompts without and with an adapter, twice each.

    GPUs round by what else is in a batch, so an effect must be twice what equal requests differ by.

    Raises:
        EvaluationError: they differ no more than answers to equal requests do.
    """
    effect = _distance(base[0], edited[0])
    noise = max(_distance(*base), _distance(*edited))
    if effect <= max(LEAST_EFFECT, 2 * noise):
        raise EvaluationError(
            f"the server at {server} answers with the adapter of the edit as without it: "
            f"log-probabilities of first tokens differ by {effect:.2g} nats, and by {noise:.2g} "
            "between equal requests; it does not apply the adapter (its log may say which modules "
            "it ignores), or the edit has no effect"
        )


def _distance(some: FirstTokens, others: FirstTokens) -> float:
    """Mean difference of log-probabilities of tokens that both have; infinite if there are none."""
    differences = [
        abs(one[token] - other[token])
        for one, other in zip(some, others, strict=True)
        for token in one.keys() & other.keys()
    ]
    return sum(differences) / len(differences) if differences else float("inf")
