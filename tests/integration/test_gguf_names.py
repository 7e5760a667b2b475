"""GGUF files that are not called `NAME.gguf`: spelled otherwise, or known by their first bytes."""

import json
from pathlib import Path

import pytest
import torch

from command_line import Surgery, contents
from gguf_tiny import write_gguf
from modelsurgery import load_edit, open_checkpoint
from modelsurgery.apply.in_place import apply_in_place
from modelsurgery.checkpoint.place import Place, hidden_name, is_gguf, place_of
from modelsurgery.errors import CheckpointError
from modelsurgery.report.html.commands import adapter_command, delivery_commands
from tiny import write_tiny_model

SET = tuple(f"M-{number:05d}-of-00002" for number in (1, 2))
NAMES = [("M.GGUF",), ("sha256-0a1b",), ("m.v2",), tuple(f"{one}.Gguf" for one in SET), SET]


@pytest.fixture(scope="module")
def edit(surgery: Surgery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An edit, beside its model in bf16."""
    directory = tmp_path_factory.mktemp("edit")
    model = write_tiny_model(directory / "model", dtype=torch.bfloat16)
    texts = directory / "texts.jsonl"
    rows = [{"text": f"kind good {n}", "label": 0} for n in range(30)]
    rows += [{"text": f"rude bad {n}", "label": 1} for n in range(30)]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    probe, made = directory / "probe.safetensors", directory / "edit.safetensors"
    for arguments in (
        ("probe", model, "--texts", texts, "--out", probe),
        ("edit", model, "--probe", probe, "--strength", 1, "--out", made),
    ):
        outcome = surgery(*arguments)
        assert outcome.code == 0, outcome.stderr
    return made


def write_as(directory: Path, edit: Path, names: tuple[str, ...]) -> Path:
    """The model as GGUF files of these names in a directory; gives the first."""
    tensors = 20 if len(names) > 1 else 0
    write_gguf(edit.parent / "model", directory / "m.gguf", "Q8_0", tensors_a_file=tensors)
    written = sorted(directory.glob("*.gguf"))
    for path, name in zip(written, names, strict=True):
        path.rename(directory / name)
    return directory / names[0]


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
def test_every_verb_takes_them(
    surgery: Surgery, edit: Path, names: tuple[str, ...], tmp_path: Path
) -> None:
    path = write_as(tmp_path, edit, names)
    before = contents(tmp_path)

    def run(*arguments: object) -> str:
        done = surgery(*arguments, workplace=tmp_path)
        assert done.code == 0, done.stderr
        return done.stdout

    assert "rows_found" in run("plan", path, "--json")
    run("apply", path, edit, "--in-place")
    assert path.with_name(path.name + ".surgery").is_dir()
    run("verify", path)
    assert json.loads(run("inspect", path, "--json"))["kind"] == "model"
    run("undo", path)
    assert contents(tmp_path) == before
    copies = tmp_path / "copies"
    copies.mkdir()
    made = run("apply", path, edit, "--out", copies / "Out.GGUF", "--json")
    first = json.loads(made)["directory"]
    assert first.endswith(".GGUF")
    run("verify", first)
    assert "tensors differ" in run("diff", path, first)
    run("undo", first)
    assert run("diff", path, first) == "the weights are the same\n"


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
def test_an_interrupted_edit_of_them_is_known(
    edit: Path, names: tuple[str, ...], tmp_path: Path
) -> None:
    path = write_as(tmp_path, edit, names)
    apply_in_place(path, [load_edit(edit)])
    place = place_of(path)
    assert [place.path(name).name for name in place.gguf_names] == list(names)
    assert [place.stable_name(place.path(name)) for name in place.gguf_names] == list(
        place.gguf_names
    )
    hidden = path.rename(hidden_name(path))
    for given in (path, hidden):
        assert place_of(given) == place
        with pytest.raises(CheckpointError, match="interrupted"):
            open_checkpoint(given)


def test_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "some.gguf").mkdir()
    (tmp_path / "short").write_bytes(b"GGU")
    for name in ("some.gguf", "short", "missing", ".."):
        assert place_of(tmp_path / name) == Place(tmp_path / name)
    assert is_gguf("missing.GGUF")


def test_reports_name_commands_for_them() -> None:
    (_, apply), (_, undo) = delivery_commands("M.GGUF", ["e"])
    assert (apply, undo) == ("surgery apply M.GGUF e --out edited.gguf", "surgery undo edited.gguf")
    assert adapter_command("M.GGUF", ["e"])[1].endswith("--to gguf --out adapter.gguf")


def test_copies_of_weights_in_capitals_are_left_behind(
    surgery: Surgery, edit: Path, tmp_path: Path
) -> None:
    source = write_tiny_model(tmp_path / "model", dtype=torch.bfloat16)
    for name in ("old.GGUF", "Model.ONNX"):
        (source / name).write_bytes(b"weights")
    (source / "blob").write_bytes(b"GGUF weights")
    done = surgery("apply", source, edit, "--out", tmp_path / "out", "--json")
    assert json.loads(done.stdout)["left_behind"] == ["Model.ONNX", "blob", "old.GGUF"]
