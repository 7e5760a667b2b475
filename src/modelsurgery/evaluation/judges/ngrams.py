"""The offline judge: a small linear model over hashed n-grams that ships with the package."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from modelsurgery.evaluation.classifiers import load_classifier
from modelsurgery.evaluation.judges.verdicts import Verdict, judged_where_spoken

BY_BEHAVIOR = {"toxicity": "toxicity", "attitude": "negativity", "negativity": "negativity"}


class NgramJudge:
    """Judges continuations with a classifier of `modelsurgery.evaluation.classifiers`.

    It reads the continuation alone: the prompts are chosen to be toxic or sad, and would drown
    what the model adds to them.
    """

    def __init__(self, classifier: str) -> None:
        """Load a classifier, `toxicity` or `negativity`."""
        self._classifier = load_classifier(classifier)
        self.name = f"ngrams:{classifier}"
        self.version = self._classifier.version
        self.note = (
            f"a small offline model of words and characters ({classifier}, version "
            f"{self.version}); its measured accuracy is in docs/judges.md"
        )

    def __call__(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Verdict]:
        """One verdict a continuation: beyond the band `behavior` or `opposite`, else `neither`."""
        return judged_where_spoken(
            lambda texts: map(self._verdict, self.scores(texts)), continuations
        )

    def _verdict(self, probability: float) -> Verdict:
        low, high = self._classifier.band  # empty, both 0.5, where there are two classes only
        if probability >= high:
            return "behavior"
        return "opposite" if probability < low else "neither"

    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Probability that each text shows the behavior, [n]."""
        return self._classifier.probabilities(list(texts))
