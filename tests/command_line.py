"""`surgery` as a user meets it: a process with its own descriptors and an exit code."""

import atexit
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Protocol

import command_server
from tiny import tiny_sentences

File = IO[str] | IO[bytes] | int

# `surgery` for a shell: as the real one, but for what that imports.
STAND_IN = """\
#!{python} -SEs
import json, os, socket, sys

request = {{"arguments": sys.argv[1:], "workplace": os.getcwd(), "before": {before!r}}}
request["environment"] = dict(os.environ)
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
connection.connect({address!r})
socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
connection.recv(64)  # its number
sys.exit(int(connection.recv(64)))
"""


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, standard output, standard error."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Made:
    """A tiny model with what was made from it; read only."""

    model: Path
    texts: Path
    probe: Path
    edit: Path
    edited: Path


class Surgery(Protocol):
    """Runs `surgery` with arguments, in a directory."""

    def __call__(self, *arguments: object, workplace: Path | None = None) -> Outcome: ...


class Refused(Protocol):
    """Runs a command that must fail well and gives its line."""

    def __call__(self, *arguments: object, code: int, says: str) -> str: ...


class Running:
    """A command that runs."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.process = int(connection.recv(64))
        self._code: int | None = None

    def wait(self) -> int:
        """Its exit code, or minus the number of the signal that ended it."""
        if self._code is None:
            self._code = int(self._connection.recv(64))
            self._connection.close()
        return self._code

    def poll(self) -> int | None:
        """The same if it has ended."""
        ended = self._code is not None or select.select([self._connection], [], [], 0)[0]
        return self.wait() if ended else None

    def send_signal(self, sent: signal.Signals) -> None:
        """Send a signal to it; nothing if it has ended."""
        if self.poll() is None:
            os.kill(self.process, sent)


class Commands:
    """Runs commands in a process that has imported their libraries; `Surgery`, and more."""

    def __init__(self, directory: Path) -> None:
        self.address = str(directory / "socket")
        self._workplace = directory / "workplace"
        self._workplace.mkdir()

    def start(
        self,
        *arguments: object,
        stdin: File = subprocess.DEVNULL,
        stdout: File = subprocess.DEVNULL,
        stderr: File = subprocess.DEVNULL,
        workplace: Path | None = None,
        environment: Mapping[str, str] | None = None,
        before: str = "",
    ) -> Running:
        """Start `surgery ARGUMENTS`.

        Args:
            arguments: of the command line.
            stdin: file that it reads; a terminal becomes its own, so that Ctrl-C there reaches it.
            stdout: file that it writes to.
            stderr: file that it writes errors to.
            workplace: its working directory.
            environment: variables that it has besides those of the tests.
            before: Python that its process runs first.
        """
        request = {
            "arguments": [str(one) for one in arguments],
            "workplace": str(workplace or self._workplace),
            "environment": dict(environment or {}),
            "before": before,
        }
        content = json.dumps(request).encode()
        assert len(content) <= command_server.LARGEST_REQUEST_BYTES
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(self.address)
        with open(os.devnull, "r+b") as nothing:  # noqa: PTH123 - a device
            files = (
                nothing if one == subprocess.DEVNULL else one for one in (stdin, stdout, stderr)
            )
            numbers = [one if isinstance(one, int) else one.fileno() for one in files]
            socket.send_fds(connection, [content], numbers)
            return Running(connection)

    def __call__(
        self, *arguments: object, workplace: Path | None = None, before: str = ""
    ) -> Outcome:
        """Run `surgery ARGUMENTS` to its end, after some Python."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            command = self.start(
                *arguments, stdout=out, stderr=err, workplace=workplace, before=before
            )
            code = command.wait()
            return Outcome(code, written(out), without_progress(written(err)))

    def write_stand_in(self, directory: Path, before: str = "") -> Path:
        """Write a program `surgery` for a shell's search path; gives its directory.

        Args:
            directory: where to.
            before: Python that each of its processes runs first.
        """
        program = directory / "surgery"
        program.write_text(
            STAND_IN.format(python=sys.executable, address=self.address, before=before)
        )
        program.chmod(0o755)
        return directory


def written(file: IO[bytes]) -> str:
    """What a command wrote to a file, from its beginning."""
    file.seek(0)
    return file.read().decode()


def without_progress(stderr: str) -> str:
    """Standard error without lines like `[0:05] generate 3 of 8; 0.6 GB` of a slow machine."""
    return re.sub(r"^\[[\d:]+\] .*\n", "", stderr, flags=re.MULTILINE)


@cache
def surgery_commands() -> Commands:
    """The one server of commands of these tests, which ends with them."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(_serving(Path(stack.enter_context(tempfile.TemporaryDirectory()))))


@contextmanager
def _serving(directory: Path) -> Iterator[Commands]:
    """Serve commands for as long as the block lasts."""
    served = Commands(directory)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(served.address)
        listening.listen()  # commands wait here until the libraries are imported
        server = subprocess.Popen(
            [sys.executable, command_server.__file__, str(listening.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
            start_new_session=True,  # Ctrl-C is for the tests
            # One thread: tiny models are slower with two, and a fork leaves a pool of them behind.
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
    assert server.stdin is not None
    with server:
        yield served
        server.stdin.close()


def contents(directory: Path) -> dict[str, bytes | None]:
    """Every path below a directory, hidden ones too, with the bytes of files."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
    }


def write_labeled(path: Path, count: int = 60) -> Path:
    """Labeled sentences of the tiny vocabulary, which end in what the label says."""
    endings = ("kind good", "rude bad")
    rows = [
        {"text": f"{text} {endings[number % 2]}", "label": number % 2}
        for number, text in enumerate(tiny_sentences(count))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
