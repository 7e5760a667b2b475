"""Surgery on GGUF files: to the byte and back, across types, and refused where it must be."""

import json
import shlex
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from command_line import Surgery
from gguf_tiny import quantized, write_gguf
from modelsurgery import (
    Edit,
    apply_to_copy,
    compare_checkpoints,
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
    undo,
    verify,
)
from modelsurgery.apply.compatibility import check_fits
from modelsurgery.apply.in_place import apply_in_place
from modelsurgery.apply.staging import staged_place
from modelsurgery.checkpoint import ggml
from modelsurgery.checkpoint.place import Place, place_of
from modelsurgery.checkpoint.quantized import BY_GGML, BY_THE_PACKAGE, QUANTIZED_DTYPES, with_added
from modelsurgery.checkpoint.rows import widened
from modelsurgery.errors import (
    CheckpointError,
    EditMismatchError,
    OutputExistsError,
    RecipeError,
    UnsupportedModelError,
)
from modelsurgery.export.factors import low_rank_factors
from tiny import read_rows, write_tiny_model

WIDTH = 256
KINDS = ("F32", "F16", "BF16", *BY_THE_PACKAGE, *BY_GGML)


def edit_of(model: Path, strength: float = 0.5, seed: int = 1) -> Edit:
    checkpoint = open_checkpoint(model)
    direction = np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)
    scores = score_rows(checkpoint, find_gate_matrices(checkpoint), direction[None])
    region = select_region(scores, 24)
    return make_edit(region, direction, strength=strength).bound_to(checkpoint)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("original") / "model"
    return write_tiny_model(
        directory, "llama", hidden_size=WIDTH, intermediate_size=64, dtype=torch.bfloat16
    )


def listing(directory: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
    }


@pytest.mark.parametrize("kind", KINDS)
def test_in_place_and_back(original: Path, kind: str, tmp_path: Path) -> None:
    path = write_gguf(original, tmp_path / "some.name.gguf", kind)
    (tmp_path / "other.gguf").write_bytes(b"another model")
    before = listing(tmp_path)
    edit = edit_of(path)
    done = apply_in_place(path, [edit])
    assert done.coverage.rows_edited == 24
    assert verify(path).wrong == ()
    assert undo(path).rows_restored == 24
    assert listing(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
def test_edited_rows_are_those_of_the_reference(original: Path, kind: str, tmp_path: Path) -> None:
    """Dequantize, add, quantize: by the gguf package and ggml, called here."""
    import gguf

    path = write_gguf(original, tmp_path / "model.gguf", kind)
    # Strong enough that all of it arrives at once.
    base, edit = open_checkpoint(path), edit_of(path, strength=2.0)
    edited = open_checkpoint(apply_to_copy(path, [edit], tmp_path / "edited.gguf").directory)
    number = gguf.GGMLQuantizationType[kind]
    for gate in find_gate_matrices(base):
        expected = widened(read_rows(base, gate.view))
        for update in (one for one in edit.updates if one.address == gate.address):
            wanted = expected[update.rows] + update.coefficients[:, None] * update.direction
            expected[update.rows] = gguf.quants.dequantize(quantized(wanted, kind), number)
        found = widened(read_rows(edited, gate.view))
        np.testing.assert_array_equal(found, expected)


def test_only_the_rows_differ(original: Path, tmp_path: Path) -> None:
    path = write_gguf(original, tmp_path / "model.gguf", "Q4_K")
    copy = apply_to_copy(path, [edit_of(path)], tmp_path / "out.gguf")
    found = compare_checkpoints(open_checkpoint(path), open_checkpoint(copy.directory))
    assert sum(len(one.rows) for one in found) == 24
    assert all(one.kind == "rows" and "ffn_gate" in one.tensor for one in found)
    assert verify(copy.directory).tensors_unknown == 0
    with pytest.raises(OutputExistsError):
        apply_to_copy(path, [edit_of(path)], tmp_path / "out.gguf")
    with pytest.raises(RecipeError, match=r"ends in \.gguf"):
        apply_to_copy(path, [edit_of(path)], tmp_path / "directory")
    content = bytearray(copy.directory.read_bytes())
    content[-1] ^= 1
    copy.directory.write_bytes(content)
    assert len(verify(copy.directory).wrong) == 1


def test_sets_of_files_and_copies_of_copies(original: Path, tmp_path: Path) -> None:
    first = write_gguf(original, tmp_path / "set.gguf", "Q8_0", tensors_a_file=8)
    before = listing(tmp_path)
    one = apply_to_copy(first, [edit_of(first)], tmp_path / "one.gguf").directory
    assert one.name.startswith("one-00001-of-")
    two = apply_to_copy(one, [edit_of(one, seed=2)], tmp_path / "two.gguf").directory
    assert verify(two).wrong == ()
    three = apply_to_copy(first, [edit_of(first)], tmp_path / one.name.replace("one", "thr"))
    assert three.directory == tmp_path / one.name.replace("one", "thr")
    assert verify(three.directory).wrong == ()
    with pytest.raises(RecipeError, match=r"four-00001-of-00009\.gguf is the name of a file of 9"):
        apply_to_copy(first, [edit_of(first)], tmp_path / "four-00001-of-00009.gguf")
    for path in (one, two):
        undo(path, everything=True)
        for name, content in before.items():
            renamed = path.with_name(path.name[:3] + name[3:])
            assert renamed.read_bytes() == content


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "Q4_K", "Q2_K", "F16", "F32"])
def test_edits_cross_over(original: Path, kind: str, tmp_path: Path) -> None:
    """An edit of the safetensors changes the same rows of the GGUF alike, and the other way."""
    path = write_gguf(original, tmp_path / "model.gguf", kind)
    edit = edit_of(original)
    save_edit(edit, tmp_path / "edit.safetensors")
    edit = load_edit(tmp_path / "edit.safetensors")
    apply_in_place(path, [edit])
    with pytest.raises(EditMismatchError, match="already"):
        apply_in_place(path, [edit])
    undo(path)
    back = edit_of(path)
    copy = apply_to_copy(original, [back], tmp_path / "copy")
    assert copy.coverage.rows_edited == 24
    with pytest.raises(EditMismatchError, match="already"):
        apply_to_copy(copy.directory, [back], tmp_path / "twice")


def test_another_model_is_refused(original: Path, tmp_path: Path) -> None:
    other = write_tiny_model(
        tmp_path / "other", "llama", hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=3,
        initializer_range=0.05,
    )  # fmt: skip
    checkpoint = open_checkpoint(original)
    edit = edit_of(original)
    generator = np.random.default_rng(5)
    strange = tuple(
        replace(one, base_samples=generator.permuted(one.base_samples)) for one in edit.updates
    )
    path = write_gguf(other, tmp_path / "model.gguf", "Q8_0")
    with pytest.raises(EditMismatchError, match="those of another model: their cosine"):
        apply_in_place(path, [replace(edit, updates=strange)])
    old = tuple(replace(one, base_samples=None) for one in edit.updates)
    with pytest.raises(EditMismatchError, match="make the edit again"):
        apply_in_place(path, [replace(edit, updates=old)])
    assert checkpoint.files == ("model.safetensors",)


def test_refusals_name_tensors_of_the_file(original: Path, tmp_path: Path) -> None:
    """Edits of one form, refused on the other: the names are those of the model that refuses."""
    path = write_gguf(original, tmp_path / "m.gguf", "Q8_0")
    model = load_model(original)
    for edit, refusing, name in (
        (edit_of(original), path, "blk.N.ffn_gate.weight"),
        (edit_of(path), original, "model.layers.N.mlp.gate_proj.weight"),
    ):
        block = edit.updates[0].address.block
        negated = [replace(one, base_samples=-one.base_samples) for one in edit.updates]
        strange = replace(edit, updates=tuple(negated))
        checkpoint = open_checkpoint(refusing)
        attempts = [
            partial(apply_to_copy, refusing, [strange], tmp_path / "out.gguf"),
            partial(plan_surgery, checkpoint, [strange]),
            partial(check_fits, refusing, [strange]),
            partial(low_rank_factors, checkpoint, [strange]),
        ]
        if refusing == original:
            attempts[0] = partial(apply_to_copy, refusing, [strange], tmp_path / "out")
            attempts[1] = partial(ExitStack().enter_context, edited(model, strange))
        for attempt in attempts:
            with pytest.raises(EditMismatchError) as caught:
                attempt()
            assert name.replace("N", str(block)) in str(caught.value)


@pytest.mark.parametrize("kind", [*BY_THE_PACKAGE, "Q6_K", "Q5_K", "Q4_K"])
def test_mild_changes_arrive_too(kind: str) -> None:
    """A change far shorter than a step of four bits is not rounded away."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((16, 1024)).astype(np.float32)
    delta = generator.standard_normal((1, 1024)).astype(np.float32) * np.float32(0.03)
    blocks = quantized(rows, kind).view(QUANTIZED_DTYPES[kind])
    achieved = widened(with_added(blocks, delta).blocks) - widened(blocks)
    arrives = (achieved * delta).sum(axis=1) / np.square(delta).sum()
    assert np.abs(arrives - 1).mean() < 0.15


def test_plan_tells_what_arrives(original: Path, tmp_path: Path) -> None:
    path = write_gguf(original, tmp_path / "model.gguf", "Q4_0")
    checkpoint, edit = open_checkpoint(path), edit_of(path)
    (planned,) = plan_surgery(checkpoint, [edit]).types.values()
    assert (planned.matrices, planned.rows, planned.rows_edited) == (3, 192, 24)
    assert planned.arrival is not None
    assert 0.95 < planned.arrival.arrives < 1.05
    assert 0.9 < planned.arrival.cosine < 1
    assert plan_surgery(open_checkpoint(original), [edit_of(original)]).types == {}


def test_what_arrives_is_what_changed(original: Path, tmp_path: Path) -> None:
    """The figures of plan, apply and apply --in-place, computed from the files alone."""
    path = write_gguf(original, tmp_path / "model.gguf", "Q4_K")
    checkpoint, edit = open_checkpoint(path), edit_of(path)
    copy = apply_to_copy(path, [edit], tmp_path / "copy.gguf")
    edited, achieved, wanted = open_checkpoint(copy.directory), [], []
    for gate in find_gate_matrices(checkpoint):
        before, after = (widened(read_rows(one, gate.view)) for one in (checkpoint, edited))
        for update in (one for one in edit.updates if one.address == gate.address):
            achieved.append((after - before)[update.rows])
            wanted.append(update.coefficients[:, None] * update.direction)
    got, asked = (np.concatenate(one).astype(np.float64) for one in (achieved, wanted))
    arrival = copy.arrival["Q4_K"]
    assert arrival.arrives == pytest.approx((got * asked).sum() / (asked**2).sum())
    assert arrival.length == pytest.approx(np.linalg.norm(got) / np.linalg.norm(asked))
    assert arrival.cosine == pytest.approx(arrival.arrives / arrival.length)
    assert plan_surgery(checkpoint, [edit]).types["Q4_K"].arrival == arrival
    assert apply_in_place(path, [edit]).arrival == copy.arrival
    undo(path)
    assert apply_to_copy(original, [edit_of(original)], tmp_path / "bf16").arrival == {}


def test_verbs_tell_what_quantization_does(
    surgery: Surgery, original: Path, tmp_path: Path
) -> None:
    path, edit = write_gguf(original, tmp_path / "m.gguf", "Q4_0"), tmp_path / "edit.safetensors"
    save_edit(edit_of(path), edit)
    planned = surgery("plan", path, edit, "--json")
    done = surgery("apply", path, edit, "--out", tmp_path / "out.gguf", "--json")
    told = json.loads(done.stdout)
    assert json.loads(planned.stdout)["types"]["Q4_0"]["arrival"] == told["arrival"]["Q4_0"]
    assert 0.9 < told["arrival"]["Q4_0"]["cosine"] < 1
    assert "importance matrix" in told["note"]
    assert "Q4_0: 24 of 192 rows in 3 matrices (" in surgery("plan", path, edit).stdout
    printed = surgery("apply", path, edit, "--in-place").stdout
    assert f"Q4_0: {told['arrival']['Q4_0']['arrives']:.1%} of the edit arrives" in printed
    assert "importance matrix" in printed
    for verb in ("verify", "undo"):
        assert surgery(verb, path).code == 0
    assert surgery("diff", path, tmp_path / "out.gguf").stdout.count("ffn_gate") == 3
    assert "edit" in surgery("inspect", tmp_path / "out.gguf").stdout


def test_without_ggml_k_quants_are_refused_by_name(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(original, tmp_path / "model.gguf", "Q4_K")
    edit, before = edit_of(path), listing(tmp_path)
    monkeypatch.setattr(ggml, "LIBRARIES", ())
    ggml._library.cache_clear()
    try:
        for attempt in (lambda: apply_in_place(path, [edit]),
                        lambda: plan_surgery(open_checkpoint(path), [edit])):  # fmt: skip
            with pytest.raises(UnsupportedModelError, match=r"Q4_K .*modelsurgery\[llama-cpp\]"):
                attempt()
        assert plan_surgery(open_checkpoint(path)).rows_found == 192
    finally:
        monkeypatch.undo()
        ggml._library.cache_clear()
    assert listing(tmp_path) == before


def test_nothing_loads_a_file_in_surgery(original: Path, tmp_path: Path) -> None:
    path = write_gguf(original, tmp_path / "model.gguf", "Q8_0")
    path.rename(tmp_path / "model.gguf.in-surgery")
    with pytest.raises(CheckpointError, match="was interrupted"):
        open_checkpoint(path)


@pytest.mark.parametrize("name", ["out.gguf", "out"])
def test_of_two_copies_to_one_place_the_later_is_refused(name: str, tmp_path: Path) -> None:
    target = place_of(tmp_path / name)

    def fill(staged: Place, content: bytes) -> None:
        staged.records.mkdir(exist_ok=True)
        (staged.records / "records").write_bytes(content)
        if staged.is_gguf:
            staged.model.write_bytes(content)

    with ExitStack() as stack:
        fill(stack.enter_context(staged_place(target)), b"late")
        with staged_place(target) as soon:
            fill(soon, b"soon")
        with pytest.raises(OutputExistsError, match=rf"{name} already exists; choose another"):
            stack.close()
    assert (target.records / "records").read_bytes() == b"soon"
    assert {one.name for one in tmp_path.iterdir()} == {target.model.name, target.records.name}


def test_weak_edits_are_warned_of(surgery: Surgery, original: Path, tmp_path: Path) -> None:
    path = write_gguf(original, tmp_path / "m.gguf", "Q4_0")
    for strength, is_weak in ((0.01, True), (0.5, False)):
        edit = tmp_path / f"{strength}.safetensors"
        save_edit(edit_of(path, strength), edit)
        out = tmp_path / f"{strength}.gguf"
        for verb in (("plan", path, edit), ("apply", path, edit, "--out", out)):
            done = surgery(*verb)
            assert done.code == 0, done.stderr
            says = "warning" in done.stdout and "rows of type Q4_0 is rounding" in done.stdout
            assert says is is_weak


@pytest.mark.parametrize("name", ["-m ü's.gguf", "plain.gguf"])
def test_the_way_back_can_be_pasted(
    name: str, surgery: Surgery, original: Path, tmp_path: Path
) -> None:
    path, edit = write_gguf(original, tmp_path / name, "F16"), tmp_path / "edit.safetensors"
    save_edit(edit_of(path), edit)
    before = path.read_bytes()
    done = surgery("apply", "--in-place", "--json", "--", name, edit, workplace=tmp_path)
    back = json.loads(done.stdout)["way_back"]
    assert surgery(*shlex.split(back)[1:], workplace=tmp_path).code == 0
    assert path.read_bytes() == before
    assert ("'" in back) is (name != "plain.gguf")
