"""Bad files on the command line: one clear line, the right exit code, nothing written or lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from command_line import Made, Refused, Surgery, without_progress
from modelsurgery import load_edit
from tiny import COMMON, tiny_sentences, tiny_tokenizer, write_tiny_model

SENTENCES = tiny_sentences(30)


def lines_of(rows: list[dict[str, object]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


GOOD = [{"text": text, "label": number % 2} for number, text in enumerate(SENTENCES)]
ALL_ONES = [{"text": text, "label": 1} for text in SENTENCES]
UNLABELLED = [{"text": text, "rude": 1} for text in SENTENCES]
CSV = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in GOOD)
BAD_TEXTS = {
    "no label column": ("jsonl", lines_of(UNLABELLED), "line 1: no column 'label'"),
    "no label column in a table": ("csv", b"text,rude\na cat,1\n", "line 2: no column 'label'"),
    "one class": ("jsonl", lines_of(ALL_ONES), "every label is 1"),
    "an empty line": (
        "jsonl",
        lines_of(GOOD[:3]) + b"\n" + lines_of(GOOD[3:]),
        "line 4: the line is empty",
    ),
    "an empty text": ("jsonl", lines_of(GOOD) + b'{"text": " ", "label": 1}', "line 31: the text"),
    "bad JSON": ("jsonl", lines_of(GOOD[:6]) + b"{'text': 1}\n", "line 7: not valid JSON"),
    "JSON too deep": ("jsonl", lines_of(GOOD) + b"[" * 100_000, "line 31: not valid JSON"),
    "no object": ("jsonl", lines_of(GOOD) + b"[1]\n", "line 31: list; expected a JSON object"),
    "no UTF-8": ("jsonl", lines_of(GOOD[:4]) + b"\xff\xfe\n" + lines_of(GOOD), "line 5: not UTF-8"),
    "no UTF-8 in a table": ("csv", CSV.encode() + b"caf\xe9,1\n", "line 32: not UTF-8"),
    "half a surrogate": ("jsonl", lines_of(GOOD) + b'{"text": "a \\ud800", "label": 1}', "line 31"),
    "too few": ("jsonl", lines_of(GOOD[:19]), "19 different texts; expected at least 20"),
    "nothing": ("jsonl", b"", "the file is empty"),
    "a bad label": ("jsonl", lines_of(GOOD) + b'{"text": "a", "label": "maybe"}', "label 'maybe'"),
    "a column too many": ("csv", CSV.encode() + b"a,1,2\n", "line 32: 3 columns; expected 2"),
    "another kind of file": ("xlsx", b"PK", "unknown kind of file '.xlsx'"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_texts_that_cannot_be_used(
    refused: Refused, tiny_llama: Path, tmp_path: Path, name: str
) -> None:
    suffix, content, says = BAD_TEXTS[name]
    texts = tmp_path / f"texts.{suffix}"
    texts.write_bytes(content)
    out = tmp_path / "out.safetensors"
    line = refused("probe", tiny_llama, "--texts", texts, "--out", out, code=2, says=says)
    assert str(texts) in line


def test_bad_texts_start_no_run(refused: Refused, tiny_llama: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.jsonl"
    line = refused("run", "--model", tiny_llama, "--texts", missing, code=2, says="no file at")
    assert str(missing) in line


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("./missing", "no model directory at ./missing"),
        ("/nowhere/missing", "no model directory at /nowhere/missing"),
        ("someone/some-model", "no model 'someone/some-model'"),
        ("not an id!", "no model 'not an id!'"),
    ],
)
def test_no_such_model(
    surgery: Surgery, refused: Refused, made: Made, tmp_path: Path, model: str, says: str
) -> None:
    texts, out = ("--texts", made.texts), ("--out", tmp_path / "out")
    refused("run", "--model", model, *texts, *out, code=2, says=says)
    refused("probe", model, *texts, *out, code=2, says=says)
    refused("edit", model, "--probe", made.probe, "--alpha", 1, *out, code=2, says=says)
    refused("apply", model, made.edit, *out, code=2, says=says)


def test_not_a_causal_language_model(refused: Refused, made: Made, tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=COMMON["vocab_size"],
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    directory = tmp_path / "bert"
    transformers.BertForMaskedLM(config).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    says = "'bert' (['BertForMaskedLM']) is not a causal language model"
    texts, out = ("--texts", made.texts), ("--out", tmp_path / "out")
    refused("run", "--model", directory, *texts, *out, code=2, says=says)
    refused("probe", directory, *texts, *out, code=2, says=says)
    says = "no layout for model type 'bert'"
    refused("apply", directory, made.edit, *out, code=2, says=says)


def test_no_mlp(refused: Refused, made: Made, tmp_path: Path) -> None:
    config = transformers.MambaConfig(
        vocab_size=COMMON["vocab_size"], hidden_size=32, num_hidden_layers=2, state_size=4
    )
    directory = tmp_path / "mamba"
    transformers.MambaForCausalLM(config).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    says = "no layout for model type 'mamba'"
    out = ("--out", tmp_path / "out")
    refused("run", "--model", directory, "--texts", made.texts, *out, code=2, says=says)
    refused("edit", directory, "--probe", made.probe, "--alpha", 1, *out, code=2, says=says)
    refused("apply", directory, made.edit, *out, code=2, says=says)


def test_edit_for_a_model_of_another_shape(refused: Refused, made: Made, tmp_path: Path) -> None:
    wider = write_tiny_model(tmp_path / "wider", intermediate_size=64)
    says = "found F32 [64, 32]; use the model that the edit was made from"
    refused("apply", wider, made.edit, "--out", tmp_path / "out", code=4, says=says)


def test_probe_for_a_model_of_another_width(refused: Refused, made: Made, tmp_path: Path) -> None:
    narrow = write_tiny_model(tmp_path / "narrow", hidden_size=16, head_dim=4)
    rest = ("--probe", made.probe, "--alpha", 1, "--out", tmp_path / "out")
    refused("edit", narrow, *rest, code=2, says="the probe was made for another model")


def test_edit_for_a_model_with_other_weights(refused: Refused, made: Made, tmp_path: Path) -> None:
    twin = write_tiny_model(tmp_path / "twin", seed=1)
    says = "not those that this edit was made for"
    refused("apply", twin, made.edit, "--out", tmp_path / "out", code=4, says=says)


def test_edit_applied_again_to_its_own_copy(refused: Refused, made: Made, tmp_path: Path) -> None:
    says = "edited already"
    refused("apply", made.edited, made.edit, "--out", tmp_path / "out", code=4, says=says)


def test_damaged_and_exchanged_artifacts(refused: Refused, made: Made, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(made.edit.read_bytes()[:-1])
    refused("apply", made.model, cut, *out, code=2, says="not a readable edit")
    refused("inspect", cut, code=2, says="not a readable edit")
    refused("apply", made.model, made.probe, *out, code=2, says="not a readable edit")
    alpha = ("--alpha", 1)
    refused("edit", made.model, "--probe", made.edit, *alpha, *out, code=2, says="readable probe")
    refused("apply", made.model, tmp_path / "no", *out, code=2, says="no edit at")
    refused("inspect", tmp_path / "no", code=2, says="no probe at")


def test_output_that_exists(refused: Refused, made: Made, tmp_path: Path) -> None:
    directory, file, empty = (tmp_path / name for name in ("full", "file", "empty"))
    directory.mkdir()
    empty.mkdir()
    (directory / "precious").write_text("mine")
    file.write_text("mine")
    says = "already exists; choose another --out or delete it"
    for taken in (directory, file):
        out = ("--out", taken)
        refused("apply", made.model, made.edit, *out, code=2, says=says)
        refused("run", "--model", made.model, "--texts", made.texts, *out, code=2, says=says)
    for taken in (directory, file, empty):  # an empty directory is no place for a file
        out = ("--out", taken)
        refused("probe", made.model, "--texts", made.texts, *out, code=2, says=says)
        refused("edit", made.model, "--probe", made.probe, "--alpha", 1, *out, code=2, says=says)


def test_output_below_a_file(refused: Refused, made: Made, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file" / "new", tmp_path / "file" / "deep" / "new"):
        says = f"cannot write {out}: a part of that path is a file"
        refused("apply", made.model, made.edit, "--out", out, code=1, says=says)
        rest = ("--probe", made.probe, "--alpha", 1, "--out", out)
        refused("edit", made.model, *rest, code=1, says=says)


def test_edit_without_strength_changes_nothing(
    surgery: Surgery, refused: Refused, made: Made, tmp_path: Path
) -> None:
    for name, strength in (("none", "0"), ("weak", "1e-30")):
        edit = tmp_path / name
        rest = ("--probe", made.probe, "--strength", strength, "--out", edit)
        assert surgery("edit", made.model, *rest).code == 0
        says = "the edit changes no byte"
        refused("apply", made.model, edit, "--out", tmp_path / "out", code=4, says=says)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_weights_that_are_damaged(
    refused: Refused, made: Made, tmp_path: Path, value: float
) -> None:
    model = write_tiny_model(tmp_path / "model")
    file = model / "model.safetensors"
    tensors = load_file(file)
    chosen = load_edit(made.edit).updates[0]
    row = int(chosen.rows[0])  # one that is edited: others are not read
    if value == 0:
        tensors = {n: torch.zeros_like(t) if "gate" in n else t for n, t in tensors.items()}
    else:
        tensors[chosen.tensor][row, 3] = value
    save_file(tensors, file, {"format": "pt"})
    rest = ("--probe", made.probe, "--alpha", 1, "--out", tmp_path / "out")
    says = (
        f"row {row} of {chosen.tensor} holds NaN or infinity" if value else "every gate row is zero"
    )
    refused("edit", model, *rest, code=1, says=says)
    refused("apply", model, made.edit, "--out", tmp_path / "out", code=4, says="")
    if value:
        for fit in ("adam", "logistic"):
            rest = ("--texts", made.texts, "--fit", fit, "--out", tmp_path / "out")
            refused("probe", model, *rest, code=1, says="hold NaN or infinity")


def test_checkpoint_that_lacks_a_tensor(refused: Refused, made: Made, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    del tensors["model.layers.0.self_attn.q_proj.weight"]
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    says = "model.layers.0.self_attn.q_proj.weight is missing"
    rest = ("--texts", made.texts, "--out", tmp_path / "out")
    refused("probe", model, *rest, code=1, says=says)


LATE = {
    "rows over the total": (("--rows", "145", "--alpha", "1"), 2, "the chosen layers have 144"),
    "layers outside": (("--layers", "2-9", "--alpha", "1"), 2, "layers 2-9; expected a range"),
    "layer outside": (("--layer", "4"), 2, "layer 4; expected 1 to 3"),
    "too small for the stored dtype": (("--strength", "1e-30"), 4, "the edit changes no byte"),
}


@pytest.mark.parametrize("name", LATE)
def test_a_run_that_fails_late_leaves_no_directory(
    refused: Refused, made: Made, tmp_path: Path, name: str
) -> None:
    options, code, says = LATE[name]
    rest = ("--model", made.model, "--texts", made.texts, "--out", tmp_path / "run")
    refused("run", *rest, *options, code=code, says=says)


def test_logs_of_transformers_stay_silent_in_a_clean_interpreter(
    made: Made, tmp_path: Path
) -> None:
    config = transformers.GPT2Config(
        vocab_size=COMMON["vocab_size"], n_embd=32, n_layer=2, n_head=4, n_positions=64
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)  # with token ids out of range
    tiny_tokenizer().save_pretrained(tmp_path)
    command = ["-m", "modelsurgery", "run", "--model", tmp_path, "--texts", made.texts,
               "--samples", "1", "--max-new-tokens", "8"]  # fmt: skip
    environment = {key: os.environ[key] for key in os.environ if "TRANSFORMERS" not in key}
    outcome = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=tmp_path,
    )
    # A random model shows no effect, which is told; nothing else is.
    line = without_progress(outcome.stderr)
    assert outcome.returncode == 5, line
    assert line.count("\n") == 1
    assert line.endswith("edit and results were saved anyway\n")


def test_an_edit_given_twice(refused: Refused, made: Made, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    again.write_bytes(made.edit.read_bytes())
    for second in (made.edit, again):
        arguments = ("apply", made.model, made.edit, second, "--out", tmp_path / "out")
        refused(*arguments, code=2, says="this edit is given twice")
    refused("plan", made.model, made.edit, made.edit, code=2, says="given twice")
    arguments = ("evaluate", made.model, "--edit", made.edit, "--edit", again)
    refused(*arguments, code=2, says="again.safetensors: this edit is given twice")


def test_a_gguf_file_is_no_edit_and_has_no_surgery(
    refused: Refused, made: Made, tmp_path: Path
) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF" + bytes(100))
    arguments = ("apply", made.model, file, "--out", tmp_path / "out")
    refused(*arguments, code=2, says="m.gguf: a GGUF file; expected a file of type edit")
    refused("inspect", file, code=2, says="m.gguf: no surgery is recorded here")
