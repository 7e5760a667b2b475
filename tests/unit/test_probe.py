from pathlib import Path

import numpy as np
import pytest
import torch

from modelsurgery import fit_probe, load_probe, save_probe
from modelsurgery.edit.probe import FITS, Probe
from modelsurgery.errors import ArtifactError, RecipeError

WIDTH = 12


def two_clouds(count: int, seed: int, distance: float = 6.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of two classes that differ along the first axis."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    features = torch.randn(count, WIDTH, generator=generator)
    features[:, 0] += distance * (labels - 0.5)
    return features, labels


def fitted(fit: str, seed: int = 0, scale: float = 1.0) -> Probe:
    train, test = two_clouds(600, 1), two_clouds(200, 2)
    return fit_probe(
        train[0] * scale, train[1], test[0] * scale, test[1], layer=2, fit=fit, seed=seed
    )


@pytest.mark.parametrize("fit", ["logistic", "mean-difference"])
def test_separable_classes_are_told_apart_and_shuffled_labels_are_not(fit: str) -> None:
    metrics = fitted(fit).metrics
    assert metrics is not None
    assert metrics.accuracy > 0.98
    assert metrics.auroc > 0.99
    assert metrics.train_texts == 600
    assert metrics.test_texts == 200
    # 200 texts: a fair coin stays within 0.5 ± 0.35 even along a random direction
    assert metrics.control_accuracy < 0.85


def test_adam_is_the_papers_recipe() -> None:
    """The same steps, written out with torch.nn: Adam 1e-4, batches of 16, 9 epochs."""
    features, labels = two_clouds(100, 1)
    ours = fit_probe(features, labels, *two_clouds(40, 2), layer=1, fit="adam", seed=5)
    generator = torch.Generator().manual_seed(5)
    layer = torch.nn.Linear(WIDTH, 2)
    bound = WIDTH**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-4)
    for _ in range(9):
        order = torch.randperm(100, generator=generator)
        for start in range(0, 100, 16):
            rows = order[start : start + 16]
            loss = torch.nn.CrossEntropyLoss()(layer(features[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.testing.assert_close(torch.from_numpy(ours.weight), layer.weight.detach())
    torch.testing.assert_close(torch.from_numpy(ours.bias), layer.bias.detach())


def test_mean_difference_is_the_difference_of_the_means_whatever_the_fit() -> None:
    features, labels = two_clouds(600, 1)
    expected = features[labels == 1].mean(0) - features[labels == 0].mean(0)
    for fit in FITS:
        found = torch.from_numpy(fitted(fit).direction("mean-difference"))
        torch.testing.assert_close(found, expected)


def test_direction_sources() -> None:
    probe = fitted("adam")
    assert np.array_equal(probe.direction("W1"), probe.weight[1])
    assert np.array_equal(probe.direction("W1-W0"), probe.weight[1] - probe.weight[0])
    with pytest.raises(RecipeError, match="direction source 'W0'"):
        probe.direction("W0")


def test_logistic_regression_points_along_the_axis_that_differs() -> None:
    direction = fitted("logistic").direction("W1-W0")
    assert direction[0] / np.linalg.norm(direction) > 0.95


def test_the_same_seed_gives_the_same_probe_file(tmp_path: Path) -> None:
    for fit in FITS:
        save_probe(fitted(fit), tmp_path / "one")
        save_probe(fitted(fit), tmp_path / "two")
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_saved_probe_reads_back(tmp_path: Path) -> None:
    probe = fitted("logistic")
    save_probe(probe, tmp_path / "probe.safetensors")
    read = load_probe(tmp_path / "probe.safetensors")
    assert np.array_equal(read.weight, probe.weight)
    assert np.array_equal(read.bias, probe.bias)
    assert read.mean_difference is not None
    assert np.array_equal(read.mean_difference, probe.direction("mean-difference"))
    assert (read.layer, read.fit, read.metrics) == (2, "logistic", probe.metrics)
    assert read.provenance == probe.provenance


def test_the_authors_released_probe_is_read(shared: Path) -> None:
    probe = load_probe(shared / "reference" / "mistral_probe.pt")
    assert probe.weight.shape == (2, 4096)
    norms = np.linalg.norm(probe.weight, axis=1)
    cosine = probe.weight[0] @ probe.weight[1] / norms.prod()
    # the figures that the project's notes on the paper give
    assert norms.tolist() == pytest.approx([2.08, 2.09], abs=0.01)
    assert cosine == pytest.approx(-0.925, abs=1e-3)
    with pytest.raises(RecipeError, match="has no mean difference"):
        probe.direction("mean-difference")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    torch.save({"mlp.weight": Trap()}, tmp_path / "probe.pt")
    with pytest.raises(ArtifactError, match="not a probe"):
        load_probe(tmp_path / "probe.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_probe_with_nan_is_refused(tmp_path: Path) -> None:
    probe = fitted("mean-difference")
    probe.weight[0, 0] = float("nan")
    save_probe(probe, tmp_path / "probe.safetensors")
    with pytest.raises(ArtifactError, match="weight has shape"):
        load_probe(tmp_path / "probe.safetensors")
