"""Which commands keep freed memory: those that load a model, and no others."""

import platform
import tempfile
from pathlib import Path

import pytest

from command_line import Made, surgery_commands, written

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
MARK = "freed memory is kept"
# Tells when the function that does it is looked up.
TELL = f"""
import sys

def tell(event, arguments):
    if event == "ctypes.dlsym" and arguments[1] == "mallopt":
        print({MARK!r}, file=sys.stderr)

sys.addaudithook(tell)
"""


def keeps_memory(directory: Path, *arguments: object) -> bool:
    with tempfile.TemporaryFile() as errors:
        commands = surgery_commands()
        commands.start(*arguments, stderr=errors, workplace=directory, before=TELL).wait()
        return MARK in written(errors)


@pytest.mark.parametrize(
    "arguments",
    [
        "run --model no-model --texts TEXTS",
        "run --model no-model --texts TEXTS --plan",
        "run --model no-model --behavior toxicity --behavior negativity",
        "tune no-model --texts TEXTS",
        "evaluate no-model --behavior toxicity",
        "rivals no-model --behavior toxicity",
        "ablations no-model --behavior toxicity",
        "probe no-model --texts TEXTS --out probe.safetensors",
        "edit no-model --texts TEXTS --out edit.safetensors",
        "inspect EDIT --model no-model",
        "chat no-model --edit EDIT",
    ],
)
def test_a_command_that_loads_a_model_does(made: Made, tmp_path: Path, arguments: str) -> None:
    files = {"TEXTS": made.texts, "EDIT": made.edit}
    assert keeps_memory(tmp_path, *(files.get(one, one) for one in arguments.split()))


def test_a_command_that_reads_and_writes_files_alone_does_not(made: Made, tmp_path: Path) -> None:
    edited = tmp_path / "edited"
    for arguments in (
        ("edit", made.model, "--probe", made.probe, "--strength", 2, "--out", tmp_path / "edit"),
        ("plan", made.model, made.edit),
        ("apply", made.model, made.edit, "--out", edited),
        ("verify", edited),
        ("diff", made.model, edited),
        ("undo", edited),
        ("inspect", made.edit),
    ):
        assert not keeps_memory(tmp_path, *arguments), arguments
