"""Judges that know all there is to know: the demo data, or the texts a behavior is given by."""

from collections.abc import Sequence
from importlib import metadata

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline, make_union

from modelsurgery.data.demo.judge import judge as demo_judge
from modelsurgery.data.demo.lexicon import vocabulary
from modelsurgery.data.texts import LabeledText, texts_sha256
from modelsurgery.evaluation.judges.verdicts import Verdict, judged_where_spoken, said_in
from modelsurgery.files.atomic import sha256_json


class DemoJudge:
    """The exact judge of the demo model."""

    name = "demo"
    note = "exact, because the demo model's vocabulary is closed; this judge is for that model only"

    def __init__(self, behavior: str) -> None:
        """Judge one behavior of the demo data."""
        self._behavior = behavior
        self.version = sha256_json([behavior, sorted(vocabulary())])[:12]

    def __call__(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Verdict]:
        """One verdict a continuation."""
        return [
            demo_judge(self._behavior, prompt, continuation)
            for prompt, continuation in zip(prompts, continuations, strict=True)
        ]


class TrainedJudge:
    """A pipeline of scikit-learn that is trained on labeled texts; it reads continuations alone.

    Attributes:
        auroc: measured on texts that it is not trained on.
    """

    name: str
    note: str

    def __init__(
        self,
        pipeline: Pipeline,
        train: Sequence[LabeledText],
        test: Sequence[LabeledText],
        *,
        made_of: Sequence[object],
    ) -> None:
        """Train on `train`, and measure on `test`; the version is a hash of what it is made of."""
        self._pipeline = pipeline
        pipeline.fit([said_in(text) for text in train], [text.label for text in train])
        scores = self.scores([said_in(text) for text in test])
        self.auroc = float(roc_auc_score([text.label for text in test], scores))
        self.version = sha256_json([*made_of, metadata.version("scikit-learn")])[:12]

    def __call__(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Verdict]:
        """One verdict a continuation; it alone is read, not the prompt."""
        return judged_where_spoken(self._verdicts, continuations)

    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """How much each text shows the behavior, [n]; over 0 it does."""
        return np.asarray(self._pipeline.decision_function(list(texts)))

    def _verdicts(self, texts: list[str]) -> list[Verdict]:
        return ["behavior" if score > 0 else "opposite" for score in self.scores(texts)]


class TextsJudge(TrainedJudge):
    """A judge made from the labeled texts: TF-IDF of words and characters, logistic regression.

    It never sees the model's hidden states, so it does not agree with the probe by construction.
    """

    name = "texts"

    def __init__(
        self, train: Sequence[LabeledText], test: Sequence[LabeledText], *, seed: int = 0
    ) -> None:
        """Fit on `train`; the AUROC in the note is measured on `test`."""
        features = make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        )
        regression = LogisticRegression(C=10.0, max_iter=1000, random_state=seed)
        made_of = [texts_sha256(train), seed]
        super().__init__(make_pipeline(features, regression), train, test, made_of=made_of)
        self.note = (
            f"trained on the given texts (words and characters), AUROC {self.auroc:.3f} on "
            "held-out texts; an estimate, not ground truth"
        )
