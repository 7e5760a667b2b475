"""GGUF files loaded as models: the values of the file, its tokenizer, and clear refusals."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from command_line import Surgery
from llama_cpp import LlamaCpp, write_gguf_model
from modelsurgery import (
    Edit,
    apply_to_copy,
    edited,
    find_gate_matrices,
    load_edit,
    load_model,
    make_edit,
    open_checkpoint,
    plan_surgery,
    save_edit,
    score_rows,
    select_region,
)
from modelsurgery.apply.compatibility import check_fits
from modelsurgery.errors import (
    CheckpointError,
    EditMismatchError,
    ModelNotFoundError,
    RecipeError,
    UnsupportedModelError,
)
from modelsurgery.export.gguf import write_gguf_adapter
from modelsurgery.model.gguf_files import dequantizing

gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")

PROMPT = "My neighbor is such a"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "modelsurgery"


def placed(directory: Path) -> Path:
    """A path in a directory of its own."""
    (directory / "place").mkdir()
    return directory / "place" / "model.gguf"


def values_of(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Values of a file's tensors, as the reference dequantizes them."""
    return {
        one.name: gguf.quants.dequantize(one.data, one.tensor_type)
        for one in gguf.GGUFReader(path).tensors
    }


@pytest.mark.parametrize(
    ("kind", "stored", "on_gpu"),
    [
        ("F32", "F32", "float32"),
        ("F16", "F16", "float16"),
        ("Q8_0", "F32", "bfloat16"),
        ("Q4_1", "F32", "bfloat16"),
    ],
)
def test_a_loaded_file_has_the_values_of_the_file(
    kind: str, stored: str, on_gpu: str, demo_path: Path, tmp_path: Path
) -> None:
    path = write_gguf_model(demo_path, placed(tmp_path), kind)
    model = load_model(path)
    gates = {gate.block: gate.tensor for gate in model.gates}
    loaded, values = model.model.state_dict(), values_of(path)
    for block, name in gates.items():
        assert np.array_equal(loaded[name].numpy(), values[f"blk.{block}.ffn_gate.weight"])
        assert model.checkpoint.tensors[name].dtype == stored
    assert np.array_equal(loaded["model.norm.weight"].numpy(), values["output_norm.weight"])
    assert model.checkpoint.config["dtype"] == on_gpu
    assert model.checkpoint.directory.name == "model"
    assert model.gguf == path
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["Model.GGUF", "sha256-0a1b"])
def test_a_file_is_loaded_whatever_it_is_called(name: str, demo_path: Path, tmp_path: Path) -> None:
    path = write_gguf_model(demo_path, placed(tmp_path), "F32").rename(tmp_path / name)
    assert load_model(path).gguf == path


def test_a_file_of_f32_says_what_its_model_says(demo_path: Path, tmp_path: Path) -> None:
    expected = load_model(demo_path)
    model = load_model(write_gguf_model(demo_path, tmp_path / "model.gguf"))
    batch = expected.tokenize([PROMPT])
    # The file does not name BOS as the opening of a text.
    assert model.token_ids([PROMPT])[0] == batch["input_ids"][0, 1:].tolist()
    with torch.inference_mode():
        apart = (model.model(**batch).logits - expected.model(**batch).logits).abs().max()
    assert float(apart) < 1e-5  # rope's factors are stored in f32, and computed in another order


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "tekken", "qwen2", "smollm"])
def test_texts_get_as_many_tokens_as_in_llama_cpp(
    pre: str, demo_path: Path, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (pip install xllamacpp)")
    path = write_gguf_model(demo_path, tmp_path / "model.gguf", "Q8_0", pre=pre)
    model, engine = load_model(path), LlamaCpp(path)
    for text in (PROMPT, "In 1984 the  cat 12", "well,\n\nthey are"):
        assert len(model.token_ids([text])[0]) == engine.counted(text)


def test_a_file_is_dequantized_once_and_again_when_it_changed(
    demo_path: Path, tmp_path: Path, cache: Path
) -> None:
    path = write_gguf_model(demo_path, tmp_path / "model.gguf", "Q8_0")
    first = load_model(path)
    weights = first.checkpoint.directory / "model.safetensors"
    made = weights.stat().st_ino
    again = load_model(path)
    assert weights.stat().st_ino == made
    assert again.fingerprint() == first.fingerprint()
    content = bytearray(path.read_bytes())
    reader = gguf.GGUFReader(path)
    gate = next(one for one in reader.tensors if one.name == "blk.1.ffn_gate.weight")
    content[gate.data_offset + 2] ^= 1  # the first number of the first row
    path.write_bytes(content)
    changed = load_model(path)
    assert changed.fingerprint() != first.fingerprint()
    assert len(list((cache / "gguf").iterdir())) == 1
    name = changed.gates[1].tensor
    expected = values_of(path)["blk.1.ffn_gate.weight"]
    assert np.array_equal(changed.model.state_dict()[name].numpy(), expected)


def split(path: Path, count: int) -> list[Path]:
    """Write a file's tensors into several, named as llama.cpp names them."""
    reader = gguf.GGUFReader(path)
    parts = []
    for number in range(count):
        part = path.with_name(f"{path.stem}-{number + 1:05}-of-{count:05}.gguf")
        writer = gguf.GGUFWriter(str(part), "llama")
        for name, field in reader.fields.items() if number == 0 else ():
            if name.startswith("GGUF.") or name == "general.architecture":
                continue
            entries = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=entries)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[number::count]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        parts.append(part)
    return parts


def test_a_split_model_is_read_from_any_of_its_parts(demo_path: Path, tmp_path: Path) -> None:
    path = write_gguf_model(demo_path, tmp_path / "model.gguf", "Q8_0")
    whole = load_model(path).model.state_dict()
    parts = split(path, 3)
    for part in (parts[0], parts[2]):
        loaded = load_model(part)
        assert loaded.checkpoint.directory.name == "model"
        found = loaded.model.state_dict()
        assert found.keys() == whole.keys()
        assert all(torch.equal(found[name], one) for name, one in whole.items())
    parts[1].unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.gguf.* is missing"):
        load_model(parts[0])


def refused(path: Path, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_refused_in_one_line(
    demo_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    path = write_gguf_model(demo_path, tmp_path / "model.gguf", "Q8_0")
    refused(tmp_path / "absent.gguf", ModelNotFoundError, "no file at")
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK\3\4" + bytes(100))
    refused(other, CheckpointError, "not a GGUF file")
    content = path.read_bytes()
    for size in (4, 20, 3000, len(content) // 2):
        other.write_bytes(content[:size])
        refused(other, CheckpointError, "cannot read it")
    other.write_bytes(content.replace(b"blk.1.ffn_gate.weight", b"blk.1.ffn_gone.weight"))
    refused(other, CheckpointError, r"missing|ffn_gone")
    writer = gguf.GGUFWriter(str(other), "clip")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(other, UnsupportedModelError, "architecture clip")
    monkeypatch.setattr(dequantizing.importlib.util, "find_spec", lambda name: None)
    refused(path, RecipeError, r"needs gguf and accelerate; pip install 'modelsurgery\[gguf\]'")
    assert not list(cache.rglob("config.json"))


def test_end_tokens_and_digits_are_read_where_transformers_does_not(tmp_path: Path) -> None:
    from modelsurgery.model.gguf_files.contents import read_contents

    def written(pre: str, tokens: Sequence[str], **ids: int) -> Path:
        path = tmp_path / f"{pre}.gguf"
        writer = gguf.GGUFWriter(str(path), "llama")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        control = gguf.TokenType.CONTROL
        writer.add_token_types([control if one.startswith("<") else 1 for one in tokens])
        for name, one in ids.items():
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", one)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    found = read_contents([written("llama-bpe", ["a", "<end>", "<|eot_id|>", "<x>"], eos=1, eom=3)])
    assert (found.end_ids, found.has_single_digits) == ((1, 2, 3), False)
    found = read_contents([written("smollm", ["a", "b", "<x>"], eot=2)])
    assert (found.end_ids, found.has_single_digits) == ((2,), True)


def test_a_file_is_probed_from_the_command_line(
    demo_path: Path, tmp_path: Path, surgery: Surgery
) -> None:
    path = write_gguf_model(demo_path, tmp_path / "model.gguf", "Q8_0")
    before = path.read_bytes()
    texts = tmp_path / "texts.jsonl"
    lines = [
        {"text": f"{word} {number}.", "label": label}
        for label, word in enumerate(("Kind", "Rude"))
        for number in range(20)
    ]
    texts.write_text("\n".join(map(json.dumps, lines)))
    done = surgery("probe", path, "--texts", texts, "--out", tmp_path / "p", "--fit", "logistic")
    assert done.code == 0, done.stderr
    assert path.read_bytes() == before
    done = surgery("probe", tmp_path / "no.gguf", "--texts", texts, "--out", tmp_path / "q")
    assert done.code == 2
    assert "no file at" in done.stderr


def demo_edit(model: Path, seed: int = 0) -> Edit:
    """A third of all rows, bound to a model on disk."""
    checkpoint = open_checkpoint(model)
    gates = find_gate_matrices(checkpoint)
    direction = np.random.default_rng(seed).standard_normal(gates[0].hidden_size)
    scores = score_rows(checkpoint, gates, direction[None].astype(np.float32))
    region = select_region(scores, 0.33)
    return make_edit(region, direction, strength=2.0).bound_to(checkpoint)


def of_another_model(edit: Edit) -> Edit:
    """The same edit as if it were made for other rows."""
    generator = np.random.default_rng(5)
    updates = tuple(
        replace(one, base_rows_sha256="0" * 64, base_samples=generator.permuted(one.base_samples))
        for one in edit.updates
    )
    return replace(edit, updates=updates)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["F16", "Q4_1"])
def test_edits_cross_over_in_memory(kind: str, dtype: str, demo_path: Path, tmp_path: Path) -> None:
    """An edit of the safetensors fits the loaded GGUF file, and the other way."""
    path = write_gguf_model(demo_path, tmp_path / "model.gguf", kind)
    model, ours = load_model(path, dtype=dtype), demo_edit(demo_path)
    assert {one.dtype for one in ours.updates} == {"BF16"}
    before = {name: one.clone() for name, one in model.model.state_dict().items()}
    with edited(model, ours) as changes:
        assert sum(len(one.rows) for one in changes) == ours.row_count
        with pytest.raises(EditMismatchError, match="of this edit already"), edited(model, ours):
            pass
    assert all(torch.equal(before[name], one) for name, one in model.model.state_dict().items())
    with (
        pytest.raises(EditMismatchError, match="another model"),
        edited(model, of_another_model(ours)),
    ):
        pass
    written = write_gguf_adapter(model.checkpoint, [ours], tmp_path / "adapter.gguf")
    assert len(written.tensors) == len(ours.updates)
    original, theirs = load_model(demo_path, dtype=dtype), demo_edit(path)
    if kind == "Q4_1":
        with edited(original, theirs) as changes:
            assert sum(len(one.rows) for one in changes) == theirs.row_count
        with (
            pytest.raises(EditMismatchError, match="another model"),
            edited(original, of_another_model(theirs)),
        ):
            pass


@pytest.mark.parametrize("kind", ["F16", "Q4_1"])
def test_edits_made_from_a_loaded_file_cross_over(
    kind: str, demo_path: Path, tmp_path: Path
) -> None:
    """As `surgery run` makes them: bound to dequantized rows, whose bytes no other file has."""
    path = write_gguf_model(demo_path, tmp_path / "model.gguf", kind)
    model, saved = load_model(path), tmp_path / "edit.safetensors"
    save_edit(demo_edit(model.checkpoint.directory), saved)
    edit = load_edit(saved)
    original = load_model(demo_path)
    for loaded in (model, original):
        with edited(loaded, edit) as changes:
            assert sum(len(one.rows) for one in changes) == edit.row_count
            with pytest.raises(EditMismatchError, match="already"), edited(loaded, edit):
                pass
    for place in (path, demo_path):
        check_fits(place, [edit])
        assert plan_surgery(open_checkpoint(place), [edit]).rows_edited == edit.row_count
        with pytest.raises(EditMismatchError, match="another model"):
            check_fits(place, [of_another_model(edit)])
    strange = [replace(one, base_samples=-one.base_samples) for one in edit.updates]
    other = replace(edit, updates=tuple(strange))
    with pytest.raises(EditMismatchError, match="another model"), edited(original, other):
        pass
    with pytest.raises(EditMismatchError, match="another model"):
        apply_to_copy(demo_path, [other], tmp_path / "copy")


def test_a_wider_model_is_still_compared_exactly(demo_path: Path) -> None:
    model, edit = load_model(demo_path, dtype="float32"), demo_edit(demo_path)
    name = model.gates[0].tensor
    row = int(edit.updates[0].rows[0])
    with torch.no_grad():
        model.model.state_dict()[name][row, 0] += 1e-6
    with pytest.raises(EditMismatchError, match="this edit was made for"), edited(model, edit):
        pass


def test_verbs_take_an_edit_of_the_original_and_refuse_others_early(
    demo_path: Path, tmp_path: Path, surgery: Surgery, cache: Path
) -> None:
    path = write_gguf_model(demo_path, tmp_path / "model.gguf", "Q4_1")
    edit, other = tmp_path / "edit.safetensors", tmp_path / "other.safetensors"
    save_edit(demo_edit(demo_path), edit)
    save_edit(of_another_model(demo_edit(demo_path)), other)
    out = tmp_path / "out"
    for arguments in (("chat", path, "--edit", other), ("inspect", other, "--model", path),
                      ("evaluate", path, "--edit", other, "--out", out)):  # fmt: skip
        done = surgery(*arguments)
        assert (done.code, out.exists()) == (4, False), done.stderr
        assert "another model" in done.stderr
    assert not cache.exists()  # nothing was loaded for it
    done = surgery("inspect", edit, "--model", path, "--json")
    assert done.code == 0, done.stderr
    assert "inside" in json.loads(done.stdout)
