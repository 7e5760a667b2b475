"""A measurement of nothing is an error or is left out; it never looks like a perfect result."""

from pathlib import Path

import numpy as np
import pytest

from modelsurgery import LanguageModel, find_gate_matrices, load_model
from modelsurgery.errors import EvaluationError
from modelsurgery.evaluation.language_modelling import compare_language_modelling
from modelsurgery.evaluation.screening import Screen
from modelsurgery.interpret.activity import watch
from modelsurgery.interpret.reactions import OPPOSITES, SHOWS, activations_of
from modelsurgery.model.activations.neurons import find_neurons
from tiny import WORDS, tiny_sentences

SENTENCES = tiny_sentences(4)
ONE_TOKEN_EACH = list(WORDS[:6])
SAYS = "the {} texts have no token to predict"


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> LanguageModel:
    model = load_model(tiny_llama)
    assert model.tokenize(ONE_TOKEN_EACH)["input_ids"].shape == (6, 1)
    return model


def test_neutral_text_of_one_token_lines_has_no_perplexity(model: LanguageModel) -> None:
    with pytest.raises(EvaluationError, match=SAYS.format("neutral")):
        compare_language_modelling(model, ONE_TOKEN_EACH, [])
    measured = compare_language_modelling(model, [*ONE_TOKEN_EACH, f"{WORDS[0]} {WORDS[1]}"], [])
    assert measured.tokens == 1


def test_no_edit_is_screened_on_texts_of_one_token(model: LanguageModel) -> None:
    for clean in (ONE_TOKEN_EACH, []):
        with pytest.raises(EvaluationError, match=SAYS.format("neutral")):
            Screen(model, SENTENCES, SENTENCES, clean)
    for texts in ((ONE_TOKEN_EACH, SENTENCES), (SENTENCES, ONE_TOKEN_EACH)):
        with pytest.raises(EvaluationError, match=SAYS.format("labeled")):
            Screen(model, *texts, SENTENCES)
    assert Screen(model, [], [], SENTENCES).clean_tokens > 0


def test_neurons_are_not_called_silent_where_no_token_was_counted(model: LanguageModel) -> None:
    gates = find_gate_matrices(model.checkpoint)
    chosen = {gate.address: np.arange(3) for gate in gates}
    found = find_neurons(model, list(chosen))
    measured = [(gates[0].address, 0)]
    seen = {
        kind: watch(model, texts, layer=1, found=found, chosen=chosen, measured=measured)
        for kind, texts in ((SHOWS, SENTENCES), (OPPOSITES, ["</s> </s>"]))
    }
    assert list(seen[SHOWS].mean_outputs) == measured
    assert seen[OPPOSITES].mean_outputs == {}
    assert len(seen[OPPOSITES].active) == 0
    found = activations_of(seen, seen, 6)
    assert found is not None
    assert [one.texts for one in found] == [SHOWS]
