"""Linear-AcT, on samples whose transport is known."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from modelsurgery import load_model
from modelsurgery.data.texts import LabeledText
from modelsurgery.rivals.intervention import Hooked
from modelsurgery.rivals.method import Materials
from modelsurgery.rivals.places import final_norm, late_norms
from modelsurgery.rivals.transport import LinearTransport, Transport
from tiny import write_tiny_model

SHOWS = tuple(LabeledText(f"my {one} is so rude and bad", 1) for one in ("dog", "cat", "friend"))
OPPOSITE = tuple(LabeledText(f"the {one} sits in the house", 0) for one in ("dog", "sun", "rain"))


def test_an_affine_change_of_shuffled_samples_is_found() -> None:
    random = np.random.default_rng(0)
    source = random.standard_normal((50, 3)).astype(np.float32)
    scale, shift = np.array([2.0, 0.5, 1.0]), np.array([1.0, -3.0, 0.0])
    target = (source * scale + shift)[random.permutation(50)].astype(np.float32)
    found = Transport.between(torch.from_numpy(source), torch.from_numpy(target))
    np.testing.assert_allclose(found.scale.numpy(), scale, atol=1e-5)
    np.testing.assert_allclose(found.shift.numpy(), shift, atol=1e-5)
    half = found(torch.from_numpy(source), 0.5).numpy()
    np.testing.assert_allclose(half, (source + source * scale + shift) / 2, atol=1e-5)


def test_the_line_is_numpys_through_sorted_pairs_and_constants_are_shifted() -> None:
    random = np.random.default_rng(1)
    source, target = random.standard_normal((9, 2)), random.exponential(size=(9, 2))
    source[:, 1] = 4.0
    found = Transport.between(torch.from_numpy(source), torch.from_numpy(target))
    line = np.polyfit(np.sort(source[:, 0]), np.sort(target[:, 0]), 1)
    np.testing.assert_allclose([found.scale[0], found.shift[0]], line, rtol=1e-5)
    np.testing.assert_allclose([found.scale[1], found.shift[1]], [1, target[:, 1].mean() - 4])


def test_each_map_is_fitted_with_those_before_it_at_work(tmp_path: Path) -> None:
    model = load_model(write_tiny_model(tmp_path))
    nothing: Any = None
    found = LinearTransport().fit(Materials(model, nothing, SHOWS, OPPOSITE, (), nothing, nothing))
    assert isinstance(found, Hooked)
    paths = [f"model.layers.{number}.post_attention_layernorm" for number in range(3)]
    assert list(found.changes) == paths
    earlier = Hooked({path: found.changes[path] for path in paths[:2]})
    pooled = []
    with earlier.applied(model, 1.0), torch.inference_mode():
        for text in (*SHOWS, *OPPOSITE):
            seen: list[torch.Tensor] = []
            handle = model.model.get_submodule(paths[2]).register_forward_hook(
                lambda _, __, output, seen=seen: seen.append(output[0])
            )
            model.model(**model.tokenize([text.text]))
            handle.remove()
            pooled.append(seen[0][1:].mean(0))
    expected = Transport.between(torch.stack(pooled[:3]), torch.stack(pooled[3:]))
    last = found.changes[paths[2]]
    assert isinstance(last, Transport)
    torch.testing.assert_close(last.scale, expected.scale, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(last.shift, expected.shift, rtol=1e-4, atol=1e-4)


def test_norms_are_found_by_name_or_by_place(tmp_path: Path) -> None:
    gpt2 = load_model(write_tiny_model(tmp_path / "gpt2", "gpt2"))
    assert late_norms(gpt2, "transformer.h.1") == ("transformer.h.1.ln_2",)
    assert final_norm(gpt2) == "transformer.ln_f"
    gemma = load_model(write_tiny_model(tmp_path / "gemma", "gemma2"))
    assert [path.rpartition(".")[2] for path in late_norms(gemma, "model.layers.0")] == [
        "post_attention_layernorm",
        "post_feedforward_layernorm",
    ]
    assert final_norm(gemma) == "model.norm"
