from pathlib import Path

import numpy as np
import pytest

from modelsurgery.errors import ArtifactError
from modelsurgery.evaluation.classifiers import CLASSIFIERS, load_classifier, read_classifier
from modelsurgery.evaluation.classifiers.features import BUCKETS, features, plain
from tools.classifiers.figures import calibration_error
from tools.classifiers.sources import Source
from tools.classifiers.train import train

KIND = [f"thank you dear goose number {n}, what a lovely pond" for n in range(60)]
GOLDEN_WORDS = [24734, 28169, 28714, 51480, 73199, 73207]
CURT = [f"go away silly goose number {n}, what a nasty pond" for n in range(60)]


def made_up() -> list[Source]:
    return [Source("made up", "ours", KIND + CURT, [0] * 60 + [1] * 60)]


def test_hashes_stay_what_they_are() -> None:
    found = features(["the goose, the pond"])
    assert found.shape == (1, 2 * BUCKETS)
    assert np.sqrt(found[:, :BUCKETS].power(2).sum()) == pytest.approx(1)
    assert np.sqrt(found[:, BUCKETS:].power(2).sum()) == pytest.approx(1)
    assert sorted(found[:, :BUCKETS].indices.tolist()) == GOLDEN_WORDS


def test_what_tells_the_source_is_taken_away() -> None:
    assert plain("RT @goose: soooo GOOD &amp; see https://x.yz/1 it’s") == "soo good & see it's"


def test_the_same_texts_give_the_same_bytes_and_a_classifier_that_knows_them(
    tmp_path: Path,
) -> None:
    for name in ("one", "two"):
        train("curtness", made_up(), KIND[:5] + CURT[:5], tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    classifier = read_classifier(tmp_path / "one")
    found = classifier.probabilities(["what a lovely goose", "a nasty silly goose"])
    assert found[0] < 0.5 < found[1]
    assert classifier.band[0] < 0.5 < classifier.band[1]


def test_training_and_validation_share_no_text() -> None:
    fitting, validation = made_up()[0].split()
    assert not set(fitting.texts) & set(validation.texts)
    assert len(fitting.texts) + len(validation.texts) == 120
    assert 3 <= len(validation.texts) <= 30


def test_calibration_error_is_that_of_a_worked_example() -> None:
    probabilities = np.array([0.1, 0.1, 0.9, 0.9])
    assert calibration_error(np.array([0, 0, 1, 1]), probabilities) == pytest.approx(0.1)
    assert calibration_error(np.array([0, 1, 1, 0]), probabilities) == pytest.approx(0.4)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_what_ships_is_small_and_whole(name: str) -> None:
    classifier = load_classifier(name)
    assert classifier.weights.shape == (2 * BUCKETS,)
    assert len(classifier.version) == 12
    assert classifier.probabilities([]).shape == (0,)


def test_a_damaged_classifier_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="not a readable classifier"):
        read_classifier(path)
