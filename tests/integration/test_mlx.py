"""Adapters for mlx-lm, loaded by the real one where there is an interpreter that has it.

`pip install 'mlx[cpu]' mlx-lm` works on Linux too, in an environment of its own;
SURGERY_TEST_MLX_PYTHON names its python.
"""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from command_line import Surgery
from families import load, random_edit
from modelsurgery import apply_to_copy, edited, find_gate_matrices, open_checkpoint
from modelsurgery.errors import OutputExistsError, RecipeError, UnsupportedModelError
from modelsurgery.export.mlx import write_mlx_adapter
from tiny import write_tiny_model

IDS = [1, 7, 9, 14, 11, 23, 8, 30]
# mlx-lm's own loader reads an adapter into the model; the logits of the last token come back.
SPOKEN = """
import sys
from dataclasses import replace
from pathlib import Path
import mlx.core as mx, numpy as np
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model
mx.set_default_device(mx.cpu)
model, _ = load_model(Path(sys.argv[1]))
if sys.argv[2]:
    model = load_adapters(model, sys.argv[2])
model.eval()
logits = model(mx.array([[int(one) for one in sys.argv[4].split(",")]]))
np.save(sys.argv[3], np.array(logits[0, -1].astype(mx.float32)))
"""


def python_with_mlx() -> str:
    if importlib.util.find_spec("mlx_lm") is not None:
        return sys.executable
    named = os.environ.get("SURGERY_TEST_MLX_PYTHON")
    if not named:
        pytest.skip("mlx-lm is not installed (see the top of this file)")
    return named


def spoken(model: Path, adapter: Path | None, place: Path) -> np.ndarray[Any, Any]:
    words = [str(model), str(adapter or ""), str(place / "logits.npy"), ",".join(map(str, IDS))]
    environment = {key: one for key, one in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python_with_mlx(), "-c", SPOKEN, *words], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    logits: np.ndarray[Any, Any] = np.load(place / "logits.npy")
    return logits


# Measured with mlx-lm 0.32.2: at most 2.1e-7; MLX sums in another order than torch.
@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3"])
def test_mlx_lm_says_what_the_edit_in_memory_says(family: str, tmp_path: Path) -> None:
    python_with_mlx()
    base = write_tiny_model(tmp_path / "base", family, dtype=torch.float32)
    edits = [random_edit(base, seed=0), random_edit(base, seed=1).scaled(-0.5)]
    write_mlx_adapter(open_checkpoint(base), edits, tmp_path / "adapter")
    loaded = load(base, family)
    answers = []
    for used, adapter in (((), None), (edits, tmp_path / "adapter")):
        with torch.inference_mode(), edited(loaded, *used):
            expected = loaded(input_ids=torch.tensor([IDS])).logits[0, -1].numpy()
        found = spoken(base, adapter, tmp_path)
        assert np.abs(found - expected).max() < 2e-6
        answers.append(expected)
    assert np.abs(answers[1] - answers[0]).max() > 0.003


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "gemma3_text"])
def test_factors_multiply_to_what_the_copy_on_disk_gained(family: str, tmp_path: Path) -> None:
    base = write_tiny_model(tmp_path / "base", family, dtype=torch.float32)
    edits = [random_edit(base, seed=0), random_edit(base, seed=1)]
    checkpoint = open_checkpoint(base)
    written = write_mlx_adapter(checkpoint, edits, tmp_path / "adapter", base_model="owner/name")
    tensors = load_file(tmp_path / "adapter" / "adapters.safetensors")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    key = {"phi3": "mlp.gate_up_proj"}.get(family, "mlp.gate_proj")
    assert config == {
        "model": "owner/name",
        "fine_tune_type": "lora",
        "num_layers": 3,
        "lora_parameters": {"rank": 2, "scale": 1.0, "dropout": 0.0, "keys": [key]},
    }
    apply_to_copy(base, edits, tmp_path / "copy")
    before, after = (load_file(one / "model.safetensors") for one in (base, tmp_path / "copy"))
    assert written.modules[0] == f"model.layers.0.{key}"
    for gate in find_gate_matrices(checkpoint):
        module = f"model.layers.{gate.block}.{key}"
        a, b = tensors[f"{module}.lora_a"], tensors[f"{module}.lora_b"]
        gained = after[gate.tensor] - before[gate.tensor]
        assert (a.shape, b.shape) == ((gained.shape[1], 2), (2, gained.shape[0]))
        assert np.allclose((a @ b).T, gained, atol=1e-6)


def test_an_edit_of_late_blocks_names_those_alone(tmp_path: Path) -> None:
    base = write_tiny_model(tmp_path / "base", "llama", dtype=torch.float32)
    edit = random_edit(base)
    late = replace(edit, updates=tuple(one for one in edit.updates if one.address.block == 2))
    write_mlx_adapter(open_checkpoint(base), [late], tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["num_layers"] == 1


def test_what_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    for family, says in (("mixtral", "expert of a mixture"), ("gpt2", "another name")):
        base = write_tiny_model(tmp_path / family, family, dtype=torch.float32)
        with pytest.raises(UnsupportedModelError, match=says):
            write_mlx_adapter(open_checkpoint(base), [random_edit(base)], tmp_path / "adapter")
    base = write_tiny_model(tmp_path / "llama", "llama", dtype=torch.float32)
    opened, edits = open_checkpoint(base), [random_edit(base)]
    with pytest.raises(RecipeError, match="float32 or float16"):
        write_mlx_adapter(opened, edits, tmp_path / "adapter", dtype="bfloat16")
    assert not (tmp_path / "adapter").exists()
    write_mlx_adapter(opened, edits, tmp_path / "adapter")
    with pytest.raises(OutputExistsError):
        write_mlx_adapter(opened, edits, tmp_path / "adapter")


def test_export_writes_it_from_the_command_line(tmp_path: Path, surgery: Surgery) -> None:
    base = write_tiny_model(tmp_path / "base", "llama", dtype=torch.float32)
    random_edit(base).save(tmp_path / "edit.safetensors")
    words = ("export", base, tmp_path / "edit.safetensors", "--to", "mlx")
    done = surgery(*words, "--out", tmp_path / "adapter", "--json")
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["rank"] == 1
    assert (tmp_path / "adapter" / "adapters.safetensors").is_file()
