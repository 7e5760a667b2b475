import os
from pathlib import Path

import pytest

from modelsurgery.errors import OutputExistsError, StorageError
from modelsurgery.files.atomic import (
    sha256_file,
    sha256_json,
    staged_directory,
    storage_errors,
    write_bytes,
    write_json,
)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    write_bytes(target, b"old")
    write_bytes(target, b"new")
    assert target.read_bytes() == b"new"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    write_bytes(target, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="no space left on the disk"):
        write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_staged_directory_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    with staged_directory(tmp_path / "out") as staged:
        (staged / "file").write_text("content")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "file").read_text() == "content"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_staged_directory_vanishes_when_the_block_raises(
    tmp_path: Path, error: type[BaseException]
) -> None:
    def interrupted() -> None:
        with staged_directory(tmp_path / "out") as staged:
            (staged / "file").write_text("content")
            raise error

    with pytest.raises(error):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(OutputExistsError), staged_directory(tmp_path):
        pytest.fail("the block must not run")
    assert (tmp_path / "mine").read_text() == "mine"


def test_errors_that_are_not_about_the_disk_pass_through() -> None:
    with pytest.raises(FileNotFoundError), storage_errors(Path("x")):
        raise FileNotFoundError(2, "gone")


def test_nan_is_not_written_as_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "file", {"rate": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "file") == known
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1})


def test_what_a_killed_process_staged_is_removed_and_what_a_living_one_stages_is_not(
    tmp_path: Path,
) -> None:
    abandoned, other = tmp_path / ".out.staged-dead", tmp_path / ".other.staged-dead"
    for path in (abandoned, other):
        path.mkdir()
        (path / "file").write_text("half")
    with staged_directory(tmp_path / "out") as first:
        assert not abandoned.exists()
        assert other.exists()
        with staged_directory(tmp_path / "out") as second:
            assert first.is_dir()
            (second / "file").write_text("second")
        (tmp_path / "out" / "file").unlink()  # so that the first may take the place
        (first / "file").write_text("first")
    assert (tmp_path / "out" / "file").read_text() == "first"
