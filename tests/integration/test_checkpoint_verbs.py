"""plan, apply, verify, diff, undo and inspect, as they are typed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from command_line import Made, Outcome, Refused, Surgery
from modelsurgery import (
    demo_model_path,
    load_edit,
    load_probe,
    open_checkpoint,
    save_edit,
    save_probe,
)
from modelsurgery.files.atomic import sha256_file
from tiny import write_tiny_model


@pytest.fixture
def model(made: Made, tmp_path: Path) -> Path:
    """A model that a test may edit in place."""
    return Path(shutil.copytree(made.model, tmp_path / "model"))


def answer(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.stderr
    return json.loads(outcome.stdout)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def hashes(directory: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in directory.rglob("*") if path.is_file()}


def test_plan_says_what_apply_then_does(surgery: Surgery, made: Made, model: Path) -> None:
    planned = answer(surgery("plan", model, made.edit, "--json"))
    assert hashes(model) == hashes(made.model)
    done = answer(surgery("apply", model, made.edit, "--in-place", "--json"))
    assert planned["family"].startswith("Llama")
    assert planned["matrices_found"] == done["tensors_found"] == 3
    assert planned["rows_edited"] == done["rows_edited"] == load_edit(made.edit).row_count
    assert planned["rows_found"] == done["rows_found"] == 144
    rows = planned["rows_edited"] * 32 * 4
    assert planned["bytes_read"] == rows
    assert planned["bytes_written_in_place"] == 2 * rows
    journal = Path(done["journal"])
    assert (journal / "before.bin").stat().st_size == rows


def test_plan_shows_what_is_left_alone(surgery: Surgery, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "model", "qwen2_moe")
    planned = answer(surgery("plan", tmp_path / "model", "--json"))
    assert any(name.endswith("mlp.gate.weight") for name in planned["left_alone"])
    assert planned["matrices_found"] > 3
    assert planned["bytes_read"] == planned["rows_found"] * 32 * 4


def test_in_place_and_back(surgery: Surgery, made: Made, model: Path) -> None:
    original = hashes(model)
    done = answer(surgery("apply", model, made.edit, "--in-place", "--json"))
    assert done["way_back"] == f"surgery undo {model}"
    assert sha256_file(model / "model.safetensors") == sha256_file(
        made.edited / "model.safetensors"
    )
    verified = answer(surgery("verify", model, "--json"))
    assert verified["wrong"] == []
    assert verified["rows_checked"] == done["rows_edited"]
    undone = answer(surgery("undo", model, "--json"))
    assert (undone["surgeries_undone"], undone["surgeries_left"]) == (1, 0)
    assert undone["rows_restored"] == done["rows_edited"]
    assert hashes(model) == original


def test_several_surgeries_are_undone_one_by_one_or_all(
    surgery: Surgery, made: Made, model: Path
) -> None:
    second, third = model.parent / "second.safetensors", model.parent / "third.safetensors"
    original = hashes(model)
    surgery("apply", model, made.edit, "--in-place")
    after_one = hashes(model)
    for path in (second, third):
        for step in (
            ("edit", model, "--probe", made.probe, "--rows", 9, "--alpha", 0.5, "--out", path),
            ("apply", model, path, "--in-place"),
        ):
            assert surgery(*step).code == 0
    assert answer(surgery("verify", model, "--json"))["wrong"] == []
    described = answer(surgery("inspect", model, "--json"))
    assert [one["journal"] for one in described["surgeries"]] == ["0001", "0002", "0003"]
    assert answer(surgery("undo", model, "--json"))["surgeries_left"] == 2
    assert answer(surgery("undo", model, "--json"))["surgeries_left"] == 1
    assert hashes(model) == after_one
    surgery("apply", model, second, "--in-place")
    assert answer(surgery("undo", model, "--all", "--json"))["surgeries_undone"] == 2
    assert hashes(model) == original


def test_a_copy_shares_what_does_not_change_and_real_copies_share_nothing(
    surgery: Surgery, made: Made, tmp_path: Path
) -> None:
    base = write_tiny_model(tmp_path / "base", max_shard_size="30KB")
    edit = tmp_path / "edit.safetensors"
    step = ("--probe", made.probe, "--layers", 1, "--rows", 5, "--alpha", 1, "--out", edit)
    assert surgery("edit", base, *step).code == 0
    changed = open_checkpoint(base).tensors[load_edit(edit).updates[0].tensor].file
    for name, options in (("shared", ()), ("real", ("--copy",))):
        copy = tmp_path / name
        done = answer(surgery("apply", base, edit, "--out", copy, *options, "--json"))
        same = {file for file in open_checkpoint(base).files if (base / file).samefile(copy / file)}
        assert changed not in same
        assert set(done["shared_files"]) - {changed} == same
        assert bool(same) == (name == "shared")
        assert answer(surgery("verify", copy, "--json"))["tensors_unknown"] == 0


def test_verify_names_the_tensor_that_is_wrong(
    surgery: Surgery, made: Made, tmp_path: Path
) -> None:
    tensors = open_checkpoint(made.edited).tensors
    for name in ("model.norm.weight", "model.layers.1.mlp.gate_proj.weight"):
        copy = Path(shutil.copytree(made.edited, tmp_path / name))
        flip(copy / tensors[name].file, tensors[name].start + 5)
        outcome = surgery("verify", copy)
        assert outcome.code == 4
        assert outcome.stderr.startswith(f"surgery: {copy}: {name} in model.safetensors")
        assert outcome.stderr.count("\n") == 1
    copy = Path(shutil.copytree(made.edited, tmp_path / "config"))
    (copy / "config.json").write_text("{}" + (copy / "config.json").read_text()[2:] + " ")
    assert surgery("verify", copy).code != 0


def test_verify_notices_edited_rows_that_changed_in_place(
    surgery: Surgery, made: Made, model: Path
) -> None:
    surgery("apply", model, made.edit, "--in-place")
    update = load_edit(made.edit).updates[0]
    tensor = open_checkpoint(model).tensors[update.tensor]
    flip(model / tensor.file, tensor.start + int(update.rows[0]) * 32 * 4 + 1)
    outcome = surgery("verify", model)
    assert outcome.code == 4
    assert f"{update.tensor}: edited rows were changed after the surgery" in outcome.stderr
    before = hashes(model)
    outcome = surgery("undo", model)
    assert outcome.code == 4
    assert "something else changed rows of" in outcome.stderr
    assert hashes(model) == before


def test_diff_lists_the_rows_with_the_norm_of_the_change(surgery: Surgery, made: Made) -> None:
    found = answer(surgery("diff", made.model, made.edited, "--json"))["tensors"]
    edit = load_edit(made.edit)
    assert [one["tensor"] for one in found] == sorted(one.tensor for one in edit.updates)
    for one, update in zip(found, edit.updates, strict=True):
        assert one["kind"] == "rows"
        assert one["rows"] == update.rows.tolist()
        norm = abs(edit.alpha) * np.linalg.norm(update.direction)
        assert one["norms"] == pytest.approx([norm] * len(update.rows), rel=1e-5)
    shown = surgery("diff", made.model, made.edited).stdout
    tensors = len({one.tensor for one in edit.updates})
    assert tensors > 1
    assert f"{tensors} tensors differ" in shown
    assert "the weights are the same" in surgery("diff", made.model, made.model).stdout


def test_diff_of_a_transposed_matrix_counts_neurons(
    surgery: Surgery, made: Made, tmp_path: Path
) -> None:
    base = write_tiny_model(tmp_path / "gpt2", "gpt2", dtype=torch.bfloat16)
    edit, copy = tmp_path / "edit.safetensors", tmp_path / "copy"
    surgery("edit", base, "--probe", made.probe, "--rows", 7, "--strength", 3, "--out", edit)
    surgery("apply", base, edit, "--out", copy)
    found = answer(surgery("diff", base, copy, "--json"))["tensors"]
    assert sum(len(one["rows"]) for one in found) == 7
    assert {one["tensor"]: one["rows"] for one in found} == {
        update.tensor: update.rows.tolist() for update in load_edit(edit).updates
    }


def test_diff_of_models_with_other_tensors(surgery: Surgery, made: Made, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other", "qwen2", hidden_size=16)
    kinds = {
        one["tensor"]: one["kind"]
        for one in answer(surgery("diff", made.model, other, "--json"))["tensors"]
    }
    assert kinds["model.norm.weight"] == "shape"
    assert kinds["model.layers.0.self_attn.q_proj.bias"] == "only in the second"


def test_inspect_knows_journals(surgery: Surgery, made: Made) -> None:
    found = answer(surgery("inspect", made.edited / ".surgery" / "0001", "--json"))
    assert found["kind"] == "journal"
    assert sum(found["rows_by_tensor"].values()) == load_edit(made.edit).row_count
    assert found["files"] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "give either --out DIR|FILE or --in-place"),
        (("--out", "x", "--in-place"), "give either --out DIR|FILE or --in-place"),
        (("--in-place", "--copy"), "--copy needs --out"),
    ],
)
def test_ways_of_applying_exclude_each_other(
    refused: Refused, made: Made, options: tuple[str, ...], says: str
) -> None:
    refused("apply", made.model, made.edit, *options, code=2, says=says)


def test_what_cannot_be_undone_verified_or_planned(
    refused: Refused, made: Made, tmp_path: Path
) -> None:
    refused("undo", made.model, code=1, says="no surgery to undo")
    refused("undo", tmp_path / "nowhere", code=2, says="no model directory")
    refused("verify", made.model, code=4, says="no surgery is recorded here")
    refused("inspect", made.model, code=2, says="no surgery is recorded here")
    for demo in ("demo", "embedded", demo_model_path()):
        refused("apply", demo, made.edit, "--in-place", code=2, says="part of the package")
    refused("plan", "demo", made.edit, code=4, says="which this model does not have")
    refused("apply", made.edited, made.edit, "--in-place", code=4, says="edited already")


def test_the_direction_is_the_mean_difference_where_the_probe_has_one(
    surgery: Surgery, made: Made, tmp_path: Path
) -> None:
    ours = load_probe(made.probe)
    without = tmp_path / "without.safetensors"  # as the paper's authors publish theirs
    save_probe(replace(ours, mean_difference=None), without)
    for name, probe, options, rule in (
        ("default", made.probe, (), "mean-difference"),
        ("paper", made.probe, ("--direction-source", "W1"), "W1"),
        ("authors", without, (), "W1"),
    ):
        out = tmp_path / f"{name}.safetensors"
        step = ("edit", made.model, "--probe", probe, "--strength", 1, *options, "--out", out)
        outcome = surgery(*step)
        assert outcome.code == 0, outcome.stderr
        edit = load_edit(out)
        assert edit.provenance.settings["direction_source"] == rule
        expected = ours.mean_difference if rule == "mean-difference" else ours.weight[1]
        assert np.array_equal(edit.updates[0].direction, expected)


def test_a_family_that_the_user_describes(surgery: Surgery, made: Made, tmp_path: Path) -> None:
    base = Path(shutil.copytree(made.model, tmp_path / "base"))
    config = (base / "config.json").read_text().replace('"llama"', '"ours"')
    (base / "config.json").write_text(config)
    layout, edit = tmp_path / "layout.yaml", tmp_path / "edit.safetensors"
    layout.write_text(
        'prefixes: ["model.layers.{block}."]\n'
        "blocks:\n"
        "  only:\n"
        "    - {branch: mlp, spellings: [{name: mlp.gate_proj.weight}]}\n"
    )
    step = ("edit", base, "--probe", made.probe, "--strength", 1, "--out", edit)
    assert "no layout for model type 'ours'" in surgery(*step).stderr
    assert surgery(*step, "--layout", layout).code == 0
    copy = tmp_path / "copy"
    assert surgery("apply", base, edit, "--out", copy).code == 0  # the edit carries the layout
    assert sha256_file(copy / "model.safetensors") == sha256_file(made.edited / "model.safetensors")


def test_a_whole_run_with_a_layout_of_the_user(
    surgery: Surgery, made: Made, tmp_path: Path
) -> None:
    layout, out = tmp_path / "layout.yaml", tmp_path / "run"
    layout.write_text(
        'prefixes: ["model.layers.{block}."]\n'
        "blocks:\n"
        "  only:\n"
        "    - {branch: mlp, spellings: [{name: mlp.gate_proj.weight}]}\n"
    )
    texts = ("--texts", made.texts, "--strength", 8, "--samples", 1)
    outcome = surgery("run", "--model", made.model, *texts, "--layout", layout, "--out", out)
    assert outcome.code == 5, outcome.stderr  # no effect on a random model; all is written
    edit = load_edit(out / "edit.safetensors")
    assert edit.layout is not None
    assert edit.layout.prefixes == ["model.layers.{block}."]


def test_names_of_strangers_do_not_steer_the_terminal(
    surgery: Surgery, made: Made, tmp_path: Path
) -> None:
    edit = load_edit(made.edit)
    first, *others = edit.updates
    strange = replace(first, tensor="one\x1b[2J\u202e\ntwo")
    origin = replace(edit.provenance, settings={"a\x1b]0;": ["\x07\u2066b"]})
    path = tmp_path / "strange.safetensors"
    save_edit(replace(edit, updates=(strange, *others), provenance=origin), path)
    shown = surgery("inspect", path).stdout
    assert "one[2J" in shown
    assert not set("\x1b\u202e\x07\u2066") & set(shown)


def test_what_has_no_value_is_not_shown(surgery: Surgery, made: Made) -> None:
    for arguments in (("plan", made.model, made.edit), ("inspect", made.edit)):
        shown = surgery(*arguments).stdout
        assert "None" not in shown
        assert "null" not in shown
        assert "types  " not in shown.replace("dtypes", "")


def test_differences_are_in_the_order_of_blocks(surgery: Surgery, tmp_path: Path) -> None:
    one, other = (
        write_tiny_model(tmp_path / str(seed), num_hidden_layers=11, seed=seed) for seed in (0, 1)
    )
    lines = surgery("diff", one, other, "--rows", 0).stdout.splitlines()
    names = [line.split()[0] for line in lines if ".mlp.gate_proj." in line]
    assert names == [f"model.layers.{block}.mlp.gate_proj.weight" for block in range(11)]
