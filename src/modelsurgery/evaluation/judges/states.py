"""A judge of another kind than words: a linear probe on a language model's hidden states.

The model reads a continuation with weights that no edit touches, and a logistic regression on its
mean hidden state says what the continuation shows. It is trained on the behavior's labeled texts.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from modelsurgery.data.texts import LabeledText, texts_sha256
from modelsurgery.evaluation.judges.known import TrainedJudge
from modelsurgery.model.hidden_states import extract_hidden_states
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.loading import load_model

MOST_TEXTS = 800  # of each label that it is trained on
DEPTH = 2 / 3  # of the layers
PENALTY = 0.01  # scikit-learn's C: strong, for a state has as many values as there are texts


class StatesJudge(TrainedJudge):
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

        The model is a directory, name of a fetched model or id of the Hub. Of each label
        `MOST_TEXTS` texts are read, and a quarter of that of `test`.

        Raises:
            ModelNotFoundError: no such model.
        """
        self._model: LanguageModel = load_model(model)
        self._layer = max(1, round(DEPTH * self._model.layer_count))
        some, held = _some_of_each(train, MOST_TEXTS), _some_of_each(test, MOST_TEXTS // 4)
        pipeline = make_pipeline(
            FunctionTransformer(self._states),
            StandardScaler(),
            LogisticRegression(C=PENALTY, max_iter=2000, random_state=seed),
        )
        made_of = [self._model.fingerprint(), texts_sha256(some), seed]
        super().__init__(pipeline, some, held, made_of=made_of)
        called = self._model.checkpoint.directory.resolve().name
        self.name = f"states:{called}"
        self.note = (
            f"a linear probe on hidden states of {called} (layer {self._layer}), trained on the "
            f"given texts, AUROC {self.auroc:.3f} on held-out texts; an estimate, not ground truth"
        )

    def _states(self, texts: Sequence[str]) -> NDArray[np.float32]:
        found = extract_hidden_states(self._model, list(texts), [self._layer])
        return np.asarray(found.by_layer[self._layer].numpy())


def _some_of_each(texts: Sequence[LabeledText], count: int) -> list[LabeledText]:
    return [
        one for label in (0, 1) for one in [text for text in texts if text.label == label][:count]
    ]
