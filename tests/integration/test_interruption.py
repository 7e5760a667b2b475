"""A full disk and Ctrl-C: one line, the right exit code, nothing half-written, nothing lost."""

import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from command_line import (
    Made,
    Running,
    Surgery,
    contents,
    surgery_commands,
    without_progress,
    write_labeled,
    written,
)

# Stands in for a slow disk or model: one function waits, after a file says that it was reached.
SLOW = """
import importlib, pathlib, time

slow = importlib.import_module({module!r})
original = getattr(slow, {name!r})

def wait(*given, **named):
    pathlib.Path({marker!r}).touch()
    time.sleep(120)
    return original(*given, **named)

setattr(slow, {name!r}, wait)
"""


def started(
    function: str, marker: Path, *arguments: object, stdout: IO[bytes], stderr: IO[bytes] | int
) -> Running:
    """`surgery` with a slow `function`, which leaves a marker when it is reached."""
    module, name = function.rsplit(".", 1)
    return surgery_commands().start(
        *arguments,
        stdout=stdout,
        stderr=stderr,
        workplace=marker.parent,
        before=SLOW.format(module=module, name=name, marker=str(marker)),
    )


def interrupted(function: str, marker: Path, *arguments: object) -> tuple[int, str, str]:
    """Send SIGINT when `function` is reached; exit code, standard output, standard error."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        running = started(function, marker, *arguments, stdout=out, stderr=err)
        while not marker.exists() and running.poll() is None:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        return running.wait(), written(out), without_progress(written(err))


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, too small for the tiny model."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs `mount`")
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_no_space_left_for_a_copy(surgery: Surgery, made: Made, full_disk: Path) -> None:
    outcome = surgery("apply", made.model, made.edit, "--out", full_disk / "edited")
    assert outcome.code == 1
    assert outcome.stderr == (
        f"surgery: cannot write {full_disk / 'edited'}: no space left on the disk; free some or "
        "choose another disk\n"
    )
    assert outcome.stdout == ""
    assert contents(full_disk) == {}


@pytest.mark.parametrize("verb", ["probe", "edit"])
def test_no_space_left_for_a_file(surgery: Surgery, made: Made, full_disk: Path, verb: str) -> None:
    filler = full_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(1 << 17))
    before = contents(full_disk)
    rest = ("--texts", made.texts) if verb == "probe" else ("--probe", made.probe, "--alpha", 1)
    outcome = surgery(verb, made.model, *rest, "--out", full_disk / "out")
    assert outcome.code == 1
    assert "no space left on the disk" in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert contents(full_disk) == before


def test_no_space_left_for_a_run(
    surgery: Surgery, made: Made, full_disk: Path, tmp_path: Path
) -> None:
    texts = write_labeled(tmp_path / "texts.jsonl", 600)  # features of 77 kB
    out = full_disk / "run"
    outcome = surgery("run", "--model", made.model, "--texts", texts, "--out", out)
    assert outcome.code == 1
    assert outcome.stderr.startswith(f"surgery: cannot write {out}")
    assert "no space left on the disk" in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert outcome.stdout == ""
    assert contents(full_disk) == {}


def test_no_space_left_for_the_trials_of_a_search(
    surgery: Surgery, made: Made, full_disk: Path, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match="No space left"):
        (full_disk / "filler").write_bytes(bytes(1 << 17))
    texts = write_labeled(tmp_path / "texts.jsonl", 200)
    study = full_disk / "study.journal"
    outcome = surgery("run", "--tune", "--model", made.model, "--texts", texts, "--study", study,
                      "--out", tmp_path / "run")  # fmt: skip
    assert outcome.code == 1
    assert outcome.stderr.startswith(f"surgery: {study}: No space left on device")
    assert outcome.stderr.count("\n") == 1
    assert not (tmp_path / "run" / "edit.safetensors").exists()


def test_ctrl_c_during_a_run_and_the_same_command_again(surgery: Surgery, tmp_path: Path) -> None:
    texts = write_labeled(tmp_path / "my texts.jsonl")
    options = ("--strength", 4, "--rows", 0.02, "--samples", 1, "--prompt-count", 4)
    command = ("run", "--texts", texts, "--model", "demo", *options)
    function = "modelsurgery.pipeline.running.measure"
    code, out, err = interrupted(function, tmp_path / "reached", *command)
    assert code == 130
    assert out == ""
    resume = err.removeprefix("surgery: interrupted; to continue, run: ").removesuffix("\n")
    assert shlex.split(resume) == ["surgery", *map(str, command)], err

    (run,) = (tmp_path / "surgery-runs").iterdir()
    left = contents(run)
    assert {"probe.safetensors", "edit.safetensors", "recipe.resolved.yaml"} <= left.keys()
    assert not {"manifest.json", "results.json"} & left.keys()
    assert not [name for name in left if Path(name).name.startswith(".")]

    outcome = surgery(*shlex.split(resume)[1:], workplace=tmp_path)
    assert outcome.code == 5, outcome.stderr  # four prompts show no effect; all is written
    assert list((tmp_path / "surgery-runs").iterdir()) == [run]
    finished = contents(run)
    assert {"manifest.json", "results.json"} <= finished.keys()
    features = [name for name in left if name.startswith("features/")]
    assert {name: finished[name] for name in features} == {name: left[name] for name in features}


@pytest.mark.parametrize("function", ["shutil.copyfile", "modelsurgery.apply.patching.check_rows"])
def test_ctrl_c_during_apply_leaves_no_destination(
    made: Made, tmp_path: Path, function: str
) -> None:
    marker = tmp_path / "reached"
    out = tmp_path / "edited"
    code, printed, err = interrupted(function, marker, "apply", made.model, made.edit, "--out", out)
    assert marker.exists()
    assert (code, printed) == (130, "")
    assert err.startswith("surgery: interrupted; to continue, run: surgery apply ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [marker]


@pytest.mark.parametrize(
    ("function", "stage", "arguments"),
    [
        ("modelsurgery.pipeline.running.run_recipe", "starting",
         ("run", "--model", "{model}", "--texts", "{texts}")),
        ("modelsurgery.pipeline.evaluating.run_evaluation", "starting", ("evaluate", "{model}")),
        ("modelsurgery.model.loading.load_model", "load model",
         ("probe", "{model}", "--texts", "{texts}", "--out", "new")),
        ("modelsurgery.edit.region.score_rows", "starting",
         ("edit", "{model}", "--probe", "{probe}", "--alpha", "1", "--out", "new")),
        ("modelsurgery.apply.patching.check_rows", "working",
         ("apply", "{model}", "{edit}", "--out", "new")),
        ("modelsurgery.apply.in_place.apply_in_place", "edit in place",
         ("apply", "{model}", "{edit}", "--in-place")),
        ("modelsurgery.apply.undoing.undo", "put rows back", ("undo", "{edited}")),
        ("modelsurgery.apply.verification.verify", "starting", ("verify", "{edited}")),
        ("modelsurgery.checkpoint.diff.compare_checkpoints", "starting",
         ("diff", "{model}", "{edited}")),
    ],
)  # fmt: skip
def test_what_takes_long_says_so_and_how_to_go_on(
    made: Made, tmp_path: Path, function: str, stage: str, arguments: tuple[str, ...]
) -> None:
    filled = [one.format(**vars(made)) for one in arguments]
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as file, os.fdopen(reading) as lines:
        running = started(function, tmp_path / "reached", *filled, stdout=file, stderr=writing)
        os.close(writing)
        told = ""
        while not re.search(rf"^\[\d+:\d\d\] ({stage})", told, re.MULTILINE):
            line = lines.readline()
            assert line, told
            told += line
        running.send_signal(signal.SIGINT)
        err = lines.read()
        code, out = running.wait(), written(file)
    last = err.splitlines()[-1]
    assert (code, out) == (130, "")
    resume = last.removeprefix("surgery: interrupted; to continue, run: ")
    assert shlex.split(resume) == ["surgery", *filled], err
    assert "Traceback" not in told + err
