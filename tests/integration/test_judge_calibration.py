"""The calibration sheet says what the shipped classifiers are worth, on texts they never saw."""

from pathlib import Path

import pytest

from modelsurgery.evaluation.classifiers import CLASSIFIERS, load_classifier
from tools.classifiers.figures import figures_of
from tools.classifiers.sheet import figures_table
from tools.classifiers.sources import held_out_sources, training_sources

SHEET = Path(__file__).resolve().parents[2] / "docs" / "judges.md"
# What a first try had (TF-IDF of words and characters, unlimited in size).
FIRST_TRY = {"jigsaw, second half": 0.956, "realtoxicityprompts, continuations": 0.883}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_sheet_says_what_the_shipped_classifier_is_worth(name: str, shared: Path) -> None:
    classifier = load_classifier(name)
    sources = held_out_sources(name, shared / "data")
    figures = [figures_of(one, classifier.probabilities(one.texts)) for one in sources]
    sheet = SHEET.read_text(encoding="utf-8")
    assert f"## {name}, version {classifier.version}" in sheet
    assert figures_table(figures) in sheet
    for one in figures:
        if one["source"] in FIRST_TRY:
            assert round(one["auroc"], 3) >= FIRST_TRY[one["source"]]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_no_text_is_trained_on_and_measured_on(name: str, shared: Path) -> None:
    trained = {text for one in training_sources(name, shared / "data") for text in one.texts}
    for one in held_out_sources(name, shared / "data"):
        assert len(trained & set(one.texts)) <= 0.01 * len(one.texts)
