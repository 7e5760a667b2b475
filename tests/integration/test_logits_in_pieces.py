"""Of every family, logits from last hidden states are those of the model's own forward pass."""

from pathlib import Path

import pytest
import torch

from families import LOADED, loaded, random_edit
from modelsurgery import edited
from modelsurgery.apply.in_memory import takes_parts
from modelsurgery.evaluation import predictions
from modelsurgery.evaluation.predictions import predict
from tiny import tiny_sentences, write_tiny_model

TEXTS = tiny_sentences(3)
# Heads that scale or bend what they give; by default it is off, or too weak to see.
SETTINGS = {
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25},
    "gemma2": {"final_logit_softcapping": 0.5},
    "gemma4_text": {"final_logit_softcapping": 0.5},
    "granite": {"logits_scaling": 3.0},
    "granitemoe": {"logits_scaling": 3.0},
    "granitemoehybrid": {"logits_scaling": 3.0},
    "granitemoeshared": {"logits_scaling": 3.0},
    "mixtral": {"output_router_logits": True},
}


@pytest.mark.parametrize("family", LOADED)
def test_predictions_are_those_of_the_whole_forward_pass(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_model(tmp_path, family, **SETTINGS.get(family, {}))
    model = loaded(tmp_path)
    edit = random_edit(tmp_path)
    batch = model.tokenize(TEXTS)
    mask = batch["attention_mask"][:, 1:].bool()
    targets = batch["input_ids"][:, 1:][mask][:, None]
    tables = []
    with torch.inference_mode():
        for edits in ((), (edit,)):
            with edited(model.model, *edits):
                logits = model.model(**batch, use_cache=False).logits[:, :-1][mask]
            tables.append(logits.double().log_softmax(-1))
        monkeypatch.setattr(predictions, "LOGITS_AT_A_TIME", 7 * 2 * tables[0].shape[-1])
        ways = [False, True] if takes_parts(model.model, model.layout) else [False]
        for together in ways:
            found = predict(model.model, batch, [(), (edit,)], together=together)
            losses = torch.stack([-table.gather(-1, targets)[:, 0] for table in tables])
            torch.testing.assert_close(found.losses, losses, rtol=1e-5, atol=1e-5)
            apart = (tables[0].exp() * (tables[0] - tables[1])).sum(-1)
            torch.testing.assert_close(found.divergences[1], apart, rtol=1e-2, atol=1e-6)
