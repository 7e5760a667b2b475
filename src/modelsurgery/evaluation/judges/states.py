"""A judge of another kind than words: a linear probe on a language model's hidden states.

The model reads a continuation with weights that no edit touches, and a logistic regression on its
mean hidden state says what the continuation shows. It is trained on the behavior's labeled texts.
"""

from collections.abc import Sequence
from importlib import metadata

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from modelsurgery.data.texts import LabeledText, texts_sha256
from modelsurgery.evaluation.judges.verdicts import Verdict, said_in, verdicts_of
from modelsurgery.files.atomic import sha256_json
from modelsurgery.model.hidden_states import extract_hidden_states
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.loading import load_model

MOST_TEXTS = 800  # of each label that it is trained on
DEPTH = 2 / 3  # of the layers
PENALTY = 0.01  # scikit-learn's C: strong, for a state has as many values as there are texts


class StatesJudge:
    """Judges continuations by what a language model makes of them; they alone are read."""

    def __init__(
        self,
        model: str,
        train: Sequence[LabeledText],
        test: Sequence[LabeledText],
        *,
        seed: int = 0,
    ) -> None:
        """Load the model and train on `train`; the AUROC in the note is measured on `test`.

        Args:
            model: directory, name of a fetched model or id of the Hub.
            train: labeled texts; so many of each label as `MOST_TEXTS` are read.
            test: texts that it is not trained on.
            seed: of the regression.

        Raises:
            ModelNotFoundError: no such model.
        """
        self._model: LanguageModel = load_model(model)
        self._layer = max(1, round(DEPTH * self._model.layer_count))
        some, held = _some_of_each(train, MOST_TEXTS), _some_of_each(test, MOST_TEXTS // 4)
        regression = LogisticRegression(C=PENALTY, max_iter=2000, random_state=seed)
        self._pipeline: Pipeline = make_pipeline(StandardScaler(), regression)
        self._pipeline.fit(
            self._states([said_in(one) for one in some]), [one.label for one in some]
        )
        scores = self.scores([said_in(one) for one in held])
        self.auroc = float(roc_auc_score([one.label for one in held], scores))
        self.name = f"states:{self._model.checkpoint.directory.resolve().name}"
        self.note = (
            f"a linear probe on hidden states of {self.name.removeprefix('states:')} (layer "
            f"{self._layer}), trained on the given texts, AUROC {self.auroc:.3f} on held-out "
            "texts; an estimate, not ground truth"
        )
        made_of = [self._model.fingerprint(), texts_sha256(some), seed]
        self.version = sha256_json([*made_of, metadata.version("scikit-learn")])[:12]

    def __call__(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Verdict]:
        """One verdict a continuation."""
        return verdicts_of(self.scores, continuations)

    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """How much each text shows the behavior, [n]; over 0 it does."""
        return np.asarray(self._pipeline.decision_function(self._states(texts)))

    def _states(self, texts: Sequence[str]) -> NDArray[np.float32]:
        found = extract_hidden_states(self._model, list(texts), [self._layer])
        return np.asarray(found.by_layer[self._layer].numpy())


def _some_of_each(texts: Sequence[LabeledText], count: int) -> list[LabeledText]:
    return [
        one for label in (0, 1) for one in [text for text in texts if text.label == label][:count]
    ]
