"""Edits of a GGUF file as an adapter, as an edited file, and as a model for Ollama."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from command_line import Refused, Surgery
from gguf_tiny import UNWRITTEN, write_gguf
from modelsurgery import (
    Edit,
    apply_to_copy,
    find_gate_matrices,
    make_edit,
    open_checkpoint,
    save_edit,
    score_rows,
    select_region,
    undo,
    verify,
)
from modelsurgery.checkpoint import ggml
from modelsurgery.checkpoint.gguf_files import MODEL_TYPES, architecture_of
from modelsurgery.errors import EditMismatchError, RecipeError, UnsupportedModelError
from modelsurgery.export.gguf import write_gguf_adapter, write_merged_gguf
from modelsurgery.export.ollama import write_ollama_model
from talking import SMOLLM_2
from tiny import write_tiny_model

WIDTH = 256


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("original") / "model"
    return write_tiny_model(
        directory, "llama", hidden_size=WIDTH, intermediate_size=64, dtype=torch.bfloat16
    )


@pytest.fixture(scope="module")
def edit(original: Path) -> Edit:
    checkpoint = open_checkpoint(original)
    direction = np.random.default_rng(1).standard_normal(WIDTH).astype(np.float32)
    scores = score_rows(checkpoint, find_gate_matrices(checkpoint), direction[None])
    return make_edit(select_region(scores, 24), direction, strength=0.5).bound_to(checkpoint)


def adapter_of(path: Path) -> dict[str, Any]:
    import gguf

    reader = gguf.GGUFReader(path)
    found: dict[str, Any] = {one.name: np.array(one.data) for one in reader.tensors}
    found["architecture"] = reader.fields["general.architecture"].contents()
    return found


def test_the_adapter_of_a_file_is_that_of_its_original(
    original: Path, edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ggml too, which an adapter of a K-quant does not need."""
    path = write_gguf(original, tmp_path / "model.gguf", "Q4_K")
    write_gguf_adapter(open_checkpoint(original), [edit], tmp_path / "one.gguf")
    monkeypatch.setattr(ggml, "LIBRARIES", ())
    ggml._library.cache_clear()
    try:
        written = write_gguf_adapter(open_checkpoint(path), [edit], tmp_path / "two.gguf")
    finally:
        monkeypatch.undo()
        ggml._library.cache_clear()
    assert written.architecture == "llama"
    expected, found = adapter_of(tmp_path / "one.gguf"), adapter_of(tmp_path / "two.gguf")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    copy = apply_to_copy(path, [edit], tmp_path / "copy.gguf")
    with pytest.raises(EditMismatchError, match="already"):
        write_gguf_adapter(open_checkpoint(copy.directory), [edit], tmp_path / "three.gguf")


@pytest.mark.parametrize("kind", [*UNWRITTEN, "TQ2_0"])
def test_an_adapter_needs_no_type_that_can_be_edited(
    kind: str, surgery: Surgery, refused: Refused, original: Path, edit: Edit, tmp_path: Path
) -> None:
    path, file = write_gguf(original, tmp_path / "model.gguf", kind), tmp_path / "e.safetensors"
    save_edit(edit, file)
    write_gguf_adapter(open_checkpoint(original), [edit], tmp_path / "one.gguf")
    written = write_gguf_adapter(open_checkpoint(path), [edit], tmp_path / "two.gguf")
    assert written.unread_types == (kind,)
    assert (tmp_path / "two.gguf").read_bytes() == (tmp_path / "one.gguf").read_bytes()
    other = tuple(replace(one, shape=(one.shape[0] + 1, WIDTH)) for one in edit.updates)
    with pytest.raises(
        EditMismatchError, match=r"the edit is for .* \[65, 256\], found \[64, 256\]"
    ):
        write_gguf_adapter(open_checkpoint(path), [replace(edit, updates=other)], tmp_path / "no")
    if kind == UNWRITTEN[0]:
        done = surgery("export", path, file, "--to", "gguf", "--out", tmp_path / "three.gguf")
        assert f"rows of type {kind} could not be compared" in done.stdout
        refused("apply", path, file, "--out", tmp_path / "four.gguf", code=2, says=kind)


def test_a_merged_file_is_what_apply_writes(
    surgery: Surgery, original: Path, edit: Edit, tmp_path: Path
) -> None:
    path = write_gguf(original, tmp_path / "model.gguf", "Q4_K")
    save_edit(edit, tmp_path / "edit.safetensors")
    copy = apply_to_copy(path, [edit], tmp_path / "copy.gguf")
    out = tmp_path / "out.gguf"
    arguments = ("export", path, tmp_path / "edit.safetensors", "--to", "gguf", "--form", "merged")
    done = surgery(*arguments, "--out", out, "--json")
    assert json.loads(done.stdout)["arrival"]["Q4_K"] == asdict(copy.arrival["Q4_K"])
    assert out.read_bytes() == copy.directory.read_bytes()
    assert undo(out).rows_restored == 24
    assert out.read_bytes() == path.read_bytes()
    with pytest.raises(UnsupportedModelError, match="is no GGUF file; give one of this model"):
        write_merged_gguf(open_checkpoint(original), [edit], tmp_path / "other.gguf")


def test_a_directory_for_ollama(
    surgery: Surgery, original: Path, edit: Edit, tmp_path: Path
) -> None:
    path = write_gguf(original, tmp_path / "m.gguf", "Q8_0", chat_template=SMOLLM_2)
    save_edit(edit, tmp_path / "edit.safetensors")
    out = tmp_path / "kind"
    done = surgery("export", path, tmp_path / "edit.safetensors", "--to", "ollama", "--out", out)
    assert f"ollama create kind -f {out}/Modelfile" in done.stdout
    assert (out / "Modelfile").read_text() == (
        'FROM ./kind.gguf\nTEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}\n'
        "{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
        '"""\nSYSTEM """you help"""\nPARAMETER stop "<|im_end|>"\n'
    )
    assert verify(out / "kind.gguf").wrong == ()
    undo(out / "kind.gguf")
    assert (out / "kind.gguf").read_bytes() == path.read_bytes()


def test_a_template_of_no_known_form_is_left_to_ollama(
    original: Path, edit: Edit, tmp_path: Path
) -> None:
    path = write_gguf(original, tmp_path / "m.gguf", "F16", chat_template="{{ messages[0] }}")
    written = write_ollama_model(open_checkpoint(path), [edit], tmp_path / "a-b")
    assert not written.has_template
    assert (tmp_path / "a-b" / "Modelfile").read_text() == "FROM ./a-b.gguf\n"
    with pytest.raises(RecipeError, match="a name of letters, digits"):
        write_ollama_model(open_checkpoint(path), [edit], tmp_path / "a b")


def test_what_ollama_and_adapters_cannot_take_is_refused(
    refused: Refused, original: Path, edit: Edit, tmp_path: Path
) -> None:
    path = write_gguf(original, tmp_path / "m.gguf", "F16")
    parts = write_gguf(original, tmp_path / "set.gguf", "F16", tensors_a_file=8)
    file = tmp_path / "edit.safetensors"
    save_edit(edit, file)
    for model in (original, parts):
        arguments = ("export", model, file, "--to", "ollama", "--out", tmp_path / "out")
        refused(*arguments, code=2, says="Ollama takes a model as one GGUF file")
    for to in ("peft", "mlx", "hub"):
        arguments = ("export", path, file, "--to", to, "--out", tmp_path / "out")
        refused(*arguments, code=2, says="is made from the model's directory")
    arguments = ("export", path, file, "--to", "mlx", "--form", "merged", "--out", tmp_path / "out")
    refused(*arguments, code=2, says="--form merged and --to mlx")


def test_an_architecture_and_its_model_type_are_one_pair() -> None:
    import gguf

    assert set(MODEL_TYPES) <= set(gguf.MODEL_ARCH_NAMES.values())
    assert [architecture_of(kind) for kind in MODEL_TYPES.values()] == list(MODEL_TYPES)
    assert (architecture_of("mistral"), architecture_of("qwen3")) == ("llama", "qwen3")


def test_dense_blocks_of_a_mixture_get_an_adapter(tmp_path: Path) -> None:
    """Its architecture is known in one direction, so it is in the other."""
    checkpoint = open_checkpoint(write_tiny_model(tmp_path / "model", "deepseek_v2"))
    gates = find_gate_matrices(checkpoint)
    dense = [gate for gate in gates if gate.address.expert < 0]
    direction = np.random.default_rng(0).standard_normal(gates[0].hidden_size)
    region = select_region(score_rows(checkpoint, dense, direction[None]), 4)
    edit = make_edit(region, direction, strength=1.0).bound_to(checkpoint)
    adapter = write_gguf_adapter(checkpoint, [edit], tmp_path / "adapter.gguf")
    assert adapter.architecture == "deepseek2"
    assert all(name.startswith("blk.") and "ffn_gate" in name for name in adapter.tensors)
