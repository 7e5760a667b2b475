"""The lock that other machines see: one holder, free after a kill, and no file left behind."""

import errno
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from modelsurgery.errors import StorageError
from modelsurgery.files import atomic, network_locks
from modelsurgery.files.atomic import locked
from modelsurgery.files.network_locks import (
    LOCK_FILE,
    file_system_of,
    is_on_network,
    network_locked,
)

HOLDER = """\
import sys, pathlib
from modelsurgery.files.network_locks import network_locked
with network_locked(pathlib.Path(sys.argv[1]), shared=False):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_holds_it_and_a_killed_one_does_not(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        for shared in (False, True):
            with (
                pytest.raises(StorageError, match="perhaps on another machine"),
                network_locked(tmp_path, shared=shared),
            ):
                pass
        holder.kill()
    with network_locked(tmp_path, shared=False):
        assert (tmp_path / LOCK_FILE).exists()
    assert list(tmp_path.iterdir()) == []


def test_readers_hold_it_together(tmp_path: Path) -> None:
    with (
        network_locked(tmp_path, shared=True),
        network_locked(tmp_path, shared=True),
        pytest.raises(StorageError),
        network_locked(tmp_path, shared=False),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
    with network_locked(tmp_path, shared=False):
        pass


def test_there_is_never_a_second_holder_though_the_file_is_removed(tmp_path: Path) -> None:
    inside: list[int] = []
    most = [0]
    rounds = [0]

    def work(number: int) -> None:
        while rounds[0] < 300:
            try:
                with network_locked(tmp_path, shared=False):
                    inside.append(number)
                    most[0] = max(most[0], len(inside))
                    rounds[0] += 1
                    inside.remove(number)
            except StorageError:
                continue

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert most == [1]


def test_file_systems_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert file_system_of(Path("/proc/self")) == "proc"
    assert not is_on_network(tmp_path)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "21 1 8:1 / / rw - ext4 /dev/sda rw\n"
        f"22 21 0:50 / {tmp_path} rw,relatime shared:9 - nfs4 server:/models rw\n"
        f"23 22 0:51 / {tmp_path}/a\\040disk rw - ext4 /dev/sdb rw\n"
    )
    (tmp_path / "a disk").mkdir()
    monkeypatch.setattr(network_locks, "MOUNTS", mounts)
    assert is_on_network(tmp_path)
    assert is_on_network(tmp_path / "model")
    assert not is_on_network(tmp_path / "a disk" / "model")
    assert not is_on_network(tmp_path.parent)


def test_mounts_are_found_whatever_they_are_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "Modelle für Köln\u2028\u00a0"
    place.mkdir()
    mounts = tmp_path / "mountinfo"
    written = str(place).replace(" ", "\\040")
    mounts.write_bytes(
        f"21 1 8:1 / / rw - ext4 /dev/sda rw\n22 21 0:50 / {written} rw - nfs4 s:/m rw\n".encode()
    )
    monkeypatch.setattr(network_locks, "MOUNTS", mounts)
    assert is_on_network(place)


def test_a_lock_of_somebody_else_is_told_from_one_that_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(network_locks.os, "open", refused)  # root may open everything
    with (
        pytest.raises(StorageError, match="permission denied; get the right"),
        network_locked(tmp_path, shared=False),
    ):
        pass
    with network_locked(tmp_path, shared=True):
        pass


def test_a_directory_on_nfs_is_locked_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "is_on_network", lambda _: True)
    with locked(tmp_path):
        assert (tmp_path / LOCK_FILE).exists()
        with pytest.raises(StorageError), network_locked(tmp_path, shared=True):
            pass
    assert list(tmp_path.iterdir()) == []
