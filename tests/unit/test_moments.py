"""Second moments of gate inputs: a sample of inputs gives what the matrix of them does."""

import numpy as np
import pytest
import torch

from modelsurgery.model.activations.moments import (
    SAMPLES,
    WIDEST_MATRIX,
    DenseMoment,
    SampledMoment,
    moment_bytes,
    samples_kept,
)

WIDTH = 24


def inputs(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Inputs of which a few directions are loud, as in models."""
    generator = torch.Generator().manual_seed(count)
    loud = torch.logspace(1, -2, WIDTH)
    return (torch.randn(count, WIDTH, generator=generator) * loud).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [5, WIDTH, 100])
@pytest.mark.parametrize("damping", [0.1, 1e-3])
def test_both_forms_solve_alike(count: int, damping: float, dtype: torch.dtype) -> None:
    read = inputs(count, dtype)
    vectors = torch.randn(3, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = read.double().numpy()
    moment = exact.T @ exact / count
    damped = moment + damping * np.trace(moment) / WIDTH * np.eye(WIDTH)
    expected = np.linalg.solve(damped, vectors.numpy().T).T
    sampled = SampledMoment(read)
    dense = DenseMoment(torch.from_numpy(moment))
    np.testing.assert_allclose(sampled.solve(vectors, damping).numpy(), expected, rtol=1e-8)
    np.testing.assert_allclose(dense.solve(vectors, damping).numpy(), expected, rtol=1e-8)
    overlap = vectors.numpy() @ moment @ vectors.numpy().T
    np.testing.assert_allclose(sampled.overlap(vectors.float()).numpy(), overlap, rtol=1e-4)
    np.testing.assert_allclose(dense.overlap(vectors).numpy(), overlap, rtol=1e-8)


def test_a_vector_along_loud_inputs_is_solved_exactly() -> None:
    """What is left of it is a difference of nearly equal numbers."""
    read = inputs(100)
    exact = read.double().numpy()
    moment = exact.T @ exact / 100
    _, vectors = np.linalg.eigh(moment)
    loudest = torch.from_numpy(vectors[:, -1:].T.copy())
    damped = moment + 1e-6 * np.trace(moment) / WIDTH * np.eye(WIDTH)
    found = SampledMoment(read).solve(loudest, 1e-6).numpy()[0]
    expected = np.linalg.solve(damped, loudest[0].numpy())
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)


def test_wide_models_keep_samples_in_less_memory() -> None:
    assert samples_kept(WIDEST_MATRIX) is None
    assert samples_kept(WIDEST_MATRIX + 1) == SAMPLES
    assert samples_kept(64, 10) == 10
    assert moment_bytes(4096, 2)[0] == 4 * 4096**2
    assert moment_bytes(16384, 2)[0] == 2 * SAMPLES * 16384
    assert moment_bytes(16384, 2)[0] < 4 * 16384**2 / 15
