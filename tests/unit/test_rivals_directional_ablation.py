"""Directional ablation and its relatives, against arithmetic by hand."""

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from modelsurgery import load_model
from modelsurgery.evaluation.screening import Effect
from modelsurgery.model.activations.texts import tokenize_plain
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.rivals.choosing import Chooser, best_layer
from modelsurgery.rivals.directional_ablation import (
    ablated,
    ablated_keeping_norms,
    ablation,
    directions_beside,
    unit,
    without_part_along,
)
from modelsurgery.rivals.intervention import Intervention, matrix_of
from modelsurgery.rivals.places import writers
from modelsurgery.rivals.states import LabelStates, block_outputs, pooled_outputs
from tiny import write_tiny_model


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory: Path = tmp_path_factory.mktemp(request.param)
    return load_model(write_tiny_model(directory, request.param))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_half_of_a_direction_is_taken_out() -> None:
    matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = ablated(matrix, torch.tensor([0.6, 0.8]), 0.5)
    # rᵀ W = (3, 4.4); half of r times that is taken off.
    torch.testing.assert_close(found, torch.tensor([[0.1, 0.68], [1.8, 2.24]]))


def test_columns_keep_their_lengths_and_write_nothing_along_the_direction() -> None:
    matrix, direction = random(6, 9), unit(random(6, seed=1))
    found = ablated_keeping_norms(matrix, direction, 1.0)
    torch.testing.assert_close(found.norm(dim=0), matrix.norm(dim=0))
    torch.testing.assert_close(direction @ found, torch.zeros(9), atol=1e-6, rtol=0)
    expected = matrix.numpy() - np.outer(direction, direction.numpy() @ matrix.numpy())
    expected *= np.linalg.norm(matrix, axis=0) / np.linalg.norm(expected, axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_part_along_another_vector() -> None:
    found = without_part_along(torch.tensor([3.0, 4.0]), torch.tensor([5.0, 0.0]))
    assert found.tolist() == [0.0, 4.0]


def test_no_block_writes_along_an_ablated_direction(model: LanguageModel) -> None:
    direction = unit(random(32))
    found = ablation(model, dict.fromkeys(writers(model), direction))
    batch = model.tokenize(["the cat sits under my tree"])
    along = []
    with torch.inference_mode():
        for strength in (0.0, 1.0):
            with found.applied(model, strength):
                (states,) = block_outputs(
                    model, tokenize_plain(model, ["the cat sits under my tree"]), [1, 2, 3]
                )
                embedded = model.decoder(**batch, output_hidden_states=True).hidden_states[0]
                along.append([states.by_layer[n] @ direction for n in (1, 2, 3)])
    biases = [
        torch.cumsum(
            torch.stack([module.bias @ direction for module in writing(model)]).view(3, 2).sum(1), 0
        )[number]
        if getattr(writing(model)[0], "bias", None) is not None
        else 0.0
        for number in range(3)
    ]
    for number in range(3):
        expected = embedded @ direction + biases[number]
        torch.testing.assert_close(along[1][number], expected, atol=1e-5, rtol=0)
        assert not torch.allclose(along[0][number], expected, atol=1e-3)
    assert found.touched == sum(matrix_of(module).numel() for module in writing(model))


def writing(model: LanguageModel) -> list[Any]:
    return [model.model.get_submodule(path) for path in writers(model)]


def test_each_block_has_the_direction_beside_its_own_mean(model: LanguageModel) -> None:
    shows = {layer: random(4, 32, seed=layer) for layer in (1, 2, 3)}
    opposite = {layer: random(5, 32, seed=10 + layer) for layer in (1, 2, 3)}
    found = directions_beside(model, LabelStates(shows, opposite), 2)
    assert tuple(found) == writers(model)
    measured = shows[2].mean(0) - opposite[2].mean(0)
    for number, direction in enumerate(found.values()):
        mean = opposite[number // 2 + 1].mean(0)
        assert float(direction.norm()) == pytest.approx(1)
        assert float(direction @ mean) == pytest.approx(0, abs=1e-5)
        # What is left of it lies in the plane of both.
        rest = np.linalg.lstsq(np.stack([measured, mean], 1), direction.numpy(), rcond=None)[1]
        assert float(rest[0]) == pytest.approx(0, abs=1e-6)


def test_no_first_token_and_no_final_norm(
    model: LanguageModel,
) -> None:
    texts = ["the cat", "my very happy friend sings"]
    found = pooled_outputs(model, tokenize_plain(model, texts), [1, 3])
    with torch.inference_mode():
        for row, text in enumerate(texts):
            seen = model.decoder(**model.tokenize([text]), output_hidden_states=True).hidden_states
            torch.testing.assert_close(found[1][row], seen[1][0, 1:].mean(0))
            norm = next(
                getattr(model.decoder, name)
                for name in ("norm", "ln_f")
                if hasattr(model.decoder, name)
            )
            last = next(block_outputs(model, tokenize_plain(model, [text]), [3])).by_layer[3]
            torch.testing.assert_close(norm(last), seen[3])
            torch.testing.assert_close(found[3][row], last[0, 1:].mean(0))


@dataclass(frozen=True)
class Scripted(Intervention):
    """Selectivity slope·s, divergence cost·s² while it is applied."""

    slope: float
    cost: float
    touched: int = 0
    strengths: list[float] = field(default_factory=list)

    @contextmanager
    def applied(self, model: Any, strength: float) -> Any:
        self.strengths.append(strength)
        model.effect = Effect(self.slope * strength, 0.0, 0.0, self.cost * strength**2, 0.0)
        yield


def materials() -> Any:
    model = SimpleNamespace(effect=None)

    @contextmanager
    def progress(*_: Any) -> Any:
        yield lambda _: None

    return SimpleNamespace(
        model=model,
        progress=progress,
        validation=SimpleNamespace(measure_changed=lambda: model.effect),
    )


def test_variants_are_compared_at_the_same_divergence() -> None:
    given = materials()
    # 1 nat at full strength: 0.02 nats at √0.02 of it, where the slope 3 gives 0.42.
    costly, cheap = Scripted(3.0, 1.0, most=1.0), Scripted(1.0, 0.04, most=1.0)
    chooser = Chooser(given)
    assert chooser.score(costly) == pytest.approx(3 * 0.02**0.5)
    assert costly.strengths == pytest.approx([1.0, 0.02**0.5])
    assert chooser.score(cheap) == pytest.approx(0.5**0.5)
    assert cheap.strengths == pytest.approx([0.02**0.5])
    assert best_layer(given, [costly, cheap]) is cheap


def test_a_variant_gets_no_further_than_its_largest_strength() -> None:
    limited = Scripted(2.0, 0.005, most=1.0)
    assert Chooser(materials()).score(limited) == pytest.approx(2.0)
    assert Chooser(materials()).score(replace(limited, most=None)) == pytest.approx(4.0)


def test_a_variant_that_breaks_the_model_is_not_chosen() -> None:
    broken = Scripted(float("nan"), 1.0, most=1.0)
    assert Chooser(materials()).score(broken) == float("-inf")
