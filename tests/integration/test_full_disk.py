"""A disk that is full, at every point of a surgery, or read-only: one line, and nothing changes.

The disk is a small tmpfs; a file fills all of it but some pages.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from command_line import Refused, contents
from killing import copy_tree
from modelsurgery import apply_to_copy, load_edit
from modelsurgery.apply.in_place import apply_in_place
from modelsurgery.apply.undoing import undo
from modelsurgery.errors import StorageError
from operated import Operated, link_shards, make_operated

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
DISK_BYTES = 1 << 20
FILLER = "filler"


@pytest.fixture(scope="module", params=["safetensors", "gguf"])
def operated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Operated:
    return make_operated(tmp_path_factory.mktemp("operated"), request.param)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of one MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs `mount`")
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@contextmanager
def pages_left(disk: Path, count: int) -> Iterator[None]:
    """Fill the disk but for a number of pages."""
    filler = disk / FILLER
    filler.touch()
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize // PAGE_BYTES
    filler.write_bytes(bytes((free - count) * PAGE_BYTES))
    yield
    filler.unlink()


@dataclass(frozen=True)
class Job:
    """A surgery on a disk.

    Attributes:
        prepare: puts models on an empty disk.
        arguments: the command line, by edits and disk.
        run: the same surgery, called.
        fewest_points: at how many sizes of the disk it should fail at least.
    """

    prepare: Callable[[Operated, Path], object]
    arguments: Callable[[Operated, Path], tuple[object, ...]]
    run: Callable[[Operated, Path], object]
    fewest_points: int


def linked(model: Path, disk: Path) -> None:
    """A model whose last shards have a second name."""
    copy_tree(model, disk / "model")
    link_shards(disk / "model", disk / "other", 2)


def model(made: Operated, disk: Path) -> Path:
    """The model on the disk."""
    return made.model(disk / "model")


def out(made: Operated, disk: Path) -> Path:
    """Where a copy goes."""
    return disk / ("out.gguf" if made.name else "out")


JOBS = {
    "a copy": Job(
        lambda made, disk: copy_tree(made.base, disk / "model"),
        lambda made, disk: ("apply", model(made, disk), made.first, "--out", out(made, disk)),
        lambda made, disk: apply_to_copy(
            model(made, disk), [load_edit(made.first)], out(made, disk)
        ),
        12,
    ),
    "a copy from another disk": Job(
        lambda made, disk: None,
        lambda made, disk: (
            "apply",
            made.model(made.edited),
            made.second,
            "--out",
            out(made, disk),
        ),
        lambda made, disk: apply_to_copy(
            made.model(made.edited), [load_edit(made.second)], out(made, disk)
        ),
        20,
    ),
    "an edit in place": Job(
        lambda made, disk: copy_tree(made.base, disk / "model"),
        lambda made, disk: ("apply", model(made, disk), made.first, "--in-place"),
        lambda made, disk: apply_in_place(model(made, disk), [load_edit(made.first)]),
        3,
    ),
    "an edit in place of shared files": Job(
        lambda made, disk: linked(made.base, disk),
        lambda made, disk: ("apply", model(made, disk), made.first, "--in-place"),
        lambda made, disk: apply_in_place(model(made, disk), [load_edit(made.first)]),
        10,
    ),
    "a second edit in place": Job(
        lambda made, disk: copy_tree(made.edited, disk / "model"),
        lambda made, disk: ("apply", model(made, disk), made.second, "--in-place"),
        lambda made, disk: apply_in_place(model(made, disk), [load_edit(made.second)]),
        3,
    ),
    "an undo of shared files": Job(
        lambda made, disk: linked(made.edited, disk),
        lambda made, disk: ("undo", model(made, disk)),
        lambda made, disk: undo(model(made, disk)),
        7,
    ),
    "an undo of a second edit": Job(
        lambda made, disk: copy_tree(made.edited_twice, disk / "model"),
        lambda made, disk: ("undo", model(made, disk)),
        lambda made, disk: undo(model(made, disk)),
        1,
    ),
}


def empty(disk: Path) -> None:
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("name", JOBS)
def test_disk_that_fills_at_any_point(operated: Operated, disk: Path, name: str) -> None:
    job = JOBS[name]
    job.prepare(operated, disk)
    job.run(operated, disk)
    expected = contents(disk)
    points = 0
    for pages in range(DISK_BYTES // PAGE_BYTES):
        empty(disk)
        job.prepare(operated, disk)
        before = contents(disk)
        with pages_left(disk, pages):
            try:
                job.run(operated, disk)
            except StorageError as error:
                message = str(error)
            else:
                break
        assert "no space left on the disk" in message
        assert contents(disk) == before, f"{pages} pages left"
        job.run(operated, disk)
        assert contents(disk) == expected, f"after {pages} pages left"
        points += 1
    assert contents(disk) == expected
    smaller = 3 if operated.name else 1  # files of four bits
    assert points >= job.fewest_points // smaller


@pytest.mark.parametrize("name", JOBS)
def test_full_disk_on_the_command_line(
    operated: Operated, refused: Refused, disk: Path, name: str
) -> None:
    job = JOBS[name]
    job.prepare(operated, disk)
    with pages_left(disk, 0):
        line = refused(*job.arguments(operated, disk), code=1, says="no space left on the disk")
    assert line.startswith(f"surgery: cannot write {disk}/")


@pytest.mark.parametrize("name", JOBS)
def test_read_only_disk(operated: Operated, refused: Refused, disk: Path, name: str) -> None:
    job = JOBS[name]
    job.prepare(operated, disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    refused(*job.arguments(operated, disk), code=1, says="the file system is read-only")
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    job.run(operated, disk)


def test_copy_from_a_read_only_disk(operated: Operated, disk: Path, tmp_path: Path) -> None:
    source = operated.model(copy_tree(operated.edited, disk / "model"))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    copies = tmp_path / "out"
    made = apply_to_copy(source, [load_edit(operated.second)], operated.destination(copies))
    assert made.shared_files == ()
    undo(made.directory)
    undo(made.directory)
    assert contents(copies) == contents(operated.base)
