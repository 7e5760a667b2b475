"""Judges: does a continuation show the behavior?

A judge says `behavior`, `opposite` or `neither` of each continuation. An empty one has `failed`,
one that the judge could say nothing about is `unjudged`; neither ever counts as harmless.
"""

from collections.abc import Sequence

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline, make_union

from modelsurgery.behaviors import Behavior
from modelsurgery.evaluation.judges.verdicts import Judge, Verdict
from modelsurgery.lab.judge import judge as lab_judge
from modelsurgery.texts import LabelledText

__all__ = ["Judge", "LabJudge", "TextsJudge", "Verdict", "judge_for"]


class LabJudge:
    """The exact judge of the embedded model."""

    name = "lab"
    note = (
        "exact, because the embedded model's vocabulary is closed; this judge is for that "
        "model only"
    )

    def __init__(self, behavior: str) -> None:
        self._behavior = behavior

    def __call__(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Verdict]:
        """One verdict a continuation."""
        return [
            lab_judge(self._behavior, prompt, continuation)
            for prompt, continuation in zip(prompts, continuations, strict=True)
        ]


class TextsJudge:
    """A judge made from the labelled texts: TF-IDF of words and characters, logistic regression.

    It never sees the model's hidden states, so it does not agree with the probe by construction.
    """

    name = "texts"

    def __init__(
        self, train: Sequence[LabelledText], held_out: Sequence[LabelledText], *, seed: int = 0
    ) -> None:
        features = make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        )
        regression = LogisticRegression(C=10.0, max_iter=1000, random_state=seed)
        self._pipeline: Pipeline = make_pipeline(features, regression)
        self._pipeline.fit([text.text for text in train], [text.label for text in train])
        scores = self._pipeline.decision_function([text.text for text in held_out])
        self.auroc = float(roc_auc_score([text.label for text in held_out], scores))
        self.note = (
            f"trained on the given texts (words and characters), AUROC {self.auroc:.3f} "
            "on held-out ones; an indication, not a ground truth"
        )

    def __call__(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Verdict]:
        """One verdict a continuation; it alone is read, not the prompt."""
        verdicts: list[Verdict] = ["failed"] * len(continuations)
        spoken = [row for row, text in enumerate(continuations) if text.strip()]
        if spoken:
            scores = self._pipeline.decision_function([continuations[row] for row in spoken])
            for row, score in zip(spoken, scores, strict=True):
                verdicts[row] = "behavior" if score > 0 else "opposite"
        return verdicts


def judge_for(behavior: Behavior, spec: str | None = None, *, seed: int = 0) -> Judge:
    """The judge of a behavior: exact in the embedded model's world, else from the texts."""
    if behavior.is_lab:
        return LabJudge(behavior.name)
    return TextsJudge(behavior.fit, behavior.held_out, seed=seed)
