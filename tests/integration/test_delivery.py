"""One edit, two ways of delivering it: memory and disk agree to the bit."""

import filecmp
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from modelsurgery import (
    Edit,
    apply_to_copy,
    edited,
    find_gate_matrices,
    load_edit,
    load_model,
    make_edit,
    open_checkpoint,
    save_edit,
    score_rows,
    select_region,
)
from modelsurgery.checkpoint.rows import RowView
from modelsurgery.errors import EditMismatchError, NothingChangedError, OutputExistsError
from tiny import FAMILIES, read_rows, tiny_sentences, write_tiny_model

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def random_edit(directory: Path, *, seed: int = 0, rows: int = 40, strength: float = 2.0) -> Edit:
    checkpoint = open_checkpoint(directory)
    gates = find_gate_matrices(checkpoint)
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(gates[0].hidden_size, generator=generator)
    region = select_region(score_rows(checkpoint, gates, direction.unsqueeze(0)), rows)
    return make_edit(region, direction, strength=strength).bound_to(checkpoint)


def logits(model: torch.nn.Module, tokenizer: object, texts: list[str]) -> torch.Tensor:
    batch = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    with torch.inference_mode():
        return model(**batch).logits


def logits_of_directory(directory: Path, texts: list[str]) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return logits(model, transformers.AutoTokenizer.from_pretrained(directory), texts)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_memory_and_disk_give_the_same_logits_for_every_family(
    family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    base = write_tiny_model(tmp_path / "base", family, dtype=dtype)
    edit = random_edit(base)
    model = load_model(base)
    texts = tiny_sentences(6)
    before = logits(model.model, model.tokenizer, texts)
    with edited(model.model, edit):
        in_memory = logits(model.model, model.tokenizer, texts)
    after = logits(model.model, model.tokenizer, texts)

    apply_to_copy(base, [edit], tmp_path / "edited")
    on_disk = logits_of_directory(tmp_path / "edited", texts)

    assert in_memory.equal(on_disk)
    assert after.equal(before)
    assert not in_memory.equal(before)


def test_sharded_copy_differs_in_the_chosen_rows_only(tmp_path: Path) -> None:
    base = write_tiny_model(tmp_path / "base", dtype=torch.bfloat16, max_shard_size="10KB")
    assert len(open_checkpoint(base).files) > 2
    edit = random_edit(base)
    copy = apply_to_copy(base, [edit], tmp_path / "edited")

    before, after = open_checkpoint(base), open_checkpoint(tmp_path / "edited")
    assert before.tensors == after.tensors
    chosen = {update.tensor: set(update.rows.tolist()) for update in edit.updates}
    for name, tensor in before.tensors.items():
        if len(tensor.shape) != 2:
            continue
        rows, columns = tensor.shape
        view = RowView(name, tensor.dtype, rows, columns, 0, columns, 1)
        old, new = (read_rows(one, view) for one in (before, after))
        differs = (old != new).any(axis=1)
        assert set(differs.nonzero()[0].tolist()) == chosen.get(name, set())
    assert copy.coverage.rows_edited == edit.row_count == 40
    assert copy.coverage.tensors_found == 3
    untouched = {"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    assert filecmp.cmpfiles(base, tmp_path / "edited", untouched, shallow=False)[0]


def test_copy_carries_the_chat_template_and_leaves_other_weights_behind(tmp_path: Path) -> None:
    base = write_tiny_model(tmp_path / "base")
    (base / "chat_template.jinja").write_text("{{ messages }}")
    (base / "pytorch_model.bin").write_bytes(b"weights of the base model")
    (base / "original").mkdir()
    (base / "original" / "params.json").write_text("{}")
    copy = apply_to_copy(base, [random_edit(base)], tmp_path / "edited")
    assert (tmp_path / "edited" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert (tmp_path / "edited" / "original" / "params.json").is_file()
    assert not (tmp_path / "edited" / "pytorch_model.bin").exists()
    assert copy.left_behind == ("pytorch_model.bin",)


def test_manifest_names_rows_and_hashes(tmp_path: Path) -> None:
    base = write_tiny_model(tmp_path / "base")
    edit = random_edit(base)
    apply_to_copy(base, [edit], tmp_path / "edited")
    manifest = json.loads((tmp_path / "edited" / "surgery.json").read_text())
    (operation,) = manifest["operations"]
    assert operation["coverage"]["rows_edited"] == edit.row_count
    content = (tmp_path / "edited" / "config.json").read_bytes()
    assert manifest["files"]["config.json"] == hashlib.sha256(content).hexdigest()
    tensors = load_file(tmp_path / "edited" / "model.safetensors")
    recorded = manifest["weights"]["model.safetensors"]["tensors"]
    assert recorded == {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }


def test_two_edits_on_disk_are_the_two_edits_in_memory(tmp_path: Path) -> None:
    base = write_tiny_model(tmp_path / "base", dtype=torch.bfloat16)
    first, second = random_edit(base, seed=1), random_edit(base, seed=2, rows=100)
    apply_to_copy(base, [first, second], tmp_path / "one")
    apply_to_copy(base, [second, first], tmp_path / "two")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
    model, texts = load_model(base), tiny_sentences(4)
    with edited(model.model, first, second):
        in_memory = logits(model.model, model.tokenizer, texts)
    assert in_memory.equal(logits_of_directory(tmp_path / "one", texts))


def test_an_edit_of_strength_zero_writes_no_directory(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(NothingChangedError, match="changes no byte"):
        apply_to_copy(tiny_llama, [random_edit(tiny_llama).scaled(0.0)], tmp_path / "edited")
    assert list(tmp_path.iterdir()) == []


def test_an_edit_for_other_weights_is_refused_everywhere(tiny_llama: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other", seed=1)
    edit = random_edit(other)
    with pytest.raises(EditMismatchError, match="not those that this edit was made for"):
        apply_to_copy(tiny_llama, [edit], tmp_path / "edited")
    model = load_model(tiny_llama)
    with pytest.raises(EditMismatchError), edited(model.model, edit):
        pass
    assert not (tmp_path / "edited").exists()


def test_a_second_application_to_the_copy_is_refused(tmp_path: Path) -> None:
    base = write_tiny_model(tmp_path / "base")
    edit = random_edit(base)
    apply_to_copy(base, [edit], tmp_path / "edited")
    with pytest.raises(EditMismatchError, match="edited already"):
        apply_to_copy(tmp_path / "edited", [edit], tmp_path / "twice")


def test_existing_output_is_left_alone(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(OutputExistsError):
        apply_to_copy(tiny_llama, [random_edit(tiny_llama)], tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_the_model_is_given_back_after_an_error_inside_the_block(tiny_llama: Path) -> None:
    model = load_model(tiny_llama)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    with pytest.raises(KeyError), edited(model.model, random_edit(tiny_llama)):
        raise KeyError
    after = model.model.state_dict()
    assert all(after[name].equal(value) for name, value in before.items())


def test_a_model_loaded_in_a_narrower_dtype_is_rounded_to_it(tmp_path: Path) -> None:
    base = write_tiny_model(tmp_path / "base", dtype=torch.float32)
    edit = random_edit(base)
    model = load_model(base, dtype="bfloat16")
    update = edit.updates[0]
    weights = model.model.get_parameter(update.tensor)
    chosen = torch.from_numpy(update.rows).long()
    narrow = weights[chosen].clone()
    with edited(model.model, edit):
        rows = weights[chosen].clone()
    delta = torch.from_numpy(update.coefficients[:, None] * update.direction)
    assert rows.equal((narrow.float() + delta).to(torch.bfloat16))


def test_edit_file_is_the_same_bytes_every_time_and_reads_back(
    tiny_llama: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        save_edit(random_edit(tiny_llama), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    edit, read = random_edit(tiny_llama), load_edit(tmp_path / "one")
    assert (read.alpha, read.strength, read.provenance) == (
        edit.alpha,
        edit.strength,
        edit.provenance,
    )
    for ours, theirs in zip(edit.updates, read.updates, strict=True):
        assert (ours.tensor, ours.address, ours.shape, ours.base_rows_sha256) == (
            theirs.tensor,
            theirs.address,
            theirs.shape,
            theirs.base_rows_sha256,
        )
        for field in ("rows", "coefficients", "direction"):
            assert np.array_equal(getattr(ours, field), getattr(theirs, field))
