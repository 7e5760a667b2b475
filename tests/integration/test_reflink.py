"""A file system that shares blocks between files: changed files of a copy take no space either."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import Made
from modelsurgery import apply_to_copy, load_edit, undo, verify
from modelsurgery.files.atomic import sha256_file

IMAGE_BYTES = 400 << 20


@pytest.fixture
def sharing_disk(tmp_path: Path) -> Iterator[Path]:
    make = shutil.which("mkfs.xfs", path="/sbin:/usr/sbin:/bin:/usr/bin")
    if make is None or os.geteuid() != 0:
        pytest.skip("needs mkfs.xfs and the right to mount")
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with image.open("xb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run([make, "-q", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, disk], capture_output=True).returncode:
        pytest.skip("loop devices cannot be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_patched_copy_shares_its_other_blocks_with_the_source(
    sharing_disk: Path, made: Made
) -> None:
    base, copy = sharing_disk / "base", sharing_disk / "copy"
    shutil.copytree(made.model, base)
    original = sha256_file(base / "model.safetensors")
    done = apply_to_copy(base, [load_edit(made.edit)], copy)
    assert done.shared_files == ("model.safetensors",)
    assert not (base / "model.safetensors").samefile(copy / "model.safetensors")
    assert sha256_file(base / "model.safetensors") == original
    edited = sha256_file(made.edited / "model.safetensors")
    assert sha256_file(copy / "model.safetensors") == edited
    assert verify(copy).wrong == ()
    undo(copy)
    assert sha256_file(copy / "model.safetensors") == original
