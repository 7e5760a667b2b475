"""AlphaSteer: neutral states stay as they are, others get the vector."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from modelsurgery import load_model
from modelsurgery.data.texts import LabeledText
from modelsurgery.rivals.alphasteer import AlphaSteer, neutral_moments, null_basis, reader, steering
from modelsurgery.rivals.intervention import Hooked
from modelsurgery.rivals.method import Materials
from tiny import tiny_sentences, write_tiny_model


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_neutral_states_are_left_alone_and_others_get_the_vector() -> None:
    neutral = random(40, 4) @ random(4, 10, seed=1)  # uses 4 of 10 directions
    shows = random(3, 10, seed=2)
    read = reader(shows.double(), null_basis((neutral.T @ neutral).double(), 0.6), ridge=1e-9)
    vector = random(10, seed=3)
    change = steering(read, vector)
    torch.testing.assert_close(change(neutral, 1.0), neutral, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        change(shows, 0.5) - shows, vector.expand(3, 10) / 2, atol=1e-4, rtol=0
    )
    assert torch.equal(change(shows, 0.0), shows)


def test_it_is_the_ridge_regression_of_the_paper() -> None:
    neutral, shows, vector = (
        one.double().numpy() for one in (random(40, 10), random(8, 10, seed=2), random(10))
    )
    basis = null_basis(torch.tensor(neutral.T @ neutral))
    found = np.outer(reader(torch.tensor(shows), basis), vector)
    # X P Δ̃ ≈ R, each row of R the vector: Δ̃ = (P Xᵀ X P + λ P P)⁺ P Xᵀ R; x moves by x P Δ̃.
    values, vectors = np.linalg.eigh(neutral.T @ neutral)
    least = vectors[:, np.argsort(values)[:6]]
    projection = least @ least.T
    inside = shows @ projection
    damped = inside.T @ inside + 10 * projection @ projection
    expected = projection @ np.linalg.pinv(damped) @ inside.T @ np.tile(vector, (8, 1))
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_neutral_moments_are_those_of_all_tokens(tmp_path: Path) -> None:
    model = load_model(write_tiny_model(tmp_path))
    nothing: Any = None
    texts = tuple(tiny_sentences(5))
    shows = tuple(LabeledText(f"my {word} is rude", 1) for word in ("dog", "cat"))
    opposite = tuple(LabeledText(f"my {word} is kind", 0) for word in ("dog", "cat"))
    given = Materials(model, nothing, shows, opposite, texts, nothing, nothing)
    found = neutral_moments(given, range(1, 3))
    with torch.inference_mode():
        for layer in (1, 2):
            states = [
                model.decoder(**model.tokenize([text]), output_hidden_states=True).hidden_states[
                    layer
                ][0]
                for text in texts
            ]
            whole = torch.cat(states)
            torch.testing.assert_close(found[layer].float(), whole.T @ whole, atol=1e-4, rtol=1e-4)
    fitted = AlphaSteer().fit(given)
    assert isinstance(fitted, Hooked)
    assert list(fitted.changes) == ["model.layers.0", "model.layers.1"]  # of 3 blocks
    assert fitted.touched == 2 * 2 * 32
