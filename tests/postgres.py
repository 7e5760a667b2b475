"""A real PostgreSQL server for tests, in a directory of its own, until the block ends."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER = "postgres"  # the server refuses to run as root
PASSWORD = "open-sesame"


def programs() -> Path:
    """The directory of `initdb` and `pg_ctl`."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    for place in reversed(places):
        if (place / "initdb").exists():
            return place
    pytest.skip("needs PostgreSQL's server programs (Debian: postgresql), which are not there")


def as_other_user() -> list[str]:
    """What to put before a command that must not run as root; nothing for another user."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None or USER not in {one.pw_name for one in pwd.getpwall()}:
        pytest.skip(f"PostgreSQL does not run as root, and setpriv or user {USER} is not there")
    return ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", "--"]


@contextmanager
def postgres_server() -> Iterator[str]:
    """Start a server with an empty database; gives its URL, which has a password."""
    pytest.importorskip("psycopg", reason="needs psycopg, of the extra storage")
    place, prefix = programs(), as_other_user()
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))
    data, log, password = directory / "data", directory / "log", directory / "password"
    password.write_text(PASSWORD)
    if prefix:
        for path in (directory, password):
            shutil.chown(path, USER, USER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(program: str, *arguments: object) -> None:
        command = [*prefix, place / program, *map(str, arguments), "-D", data]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")
        assert done.returncode == 0, done.stderr

    options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {directory}"
    try:
        call("initdb", "--auth", "scram-sha-256", "--pwfile", password, "--username", USER,
             "--no-sync")  # fmt: skip
        call("pg_ctl", "start", "--wait", "--silent", "-l", log, "-o", options)
        try:
            yield f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "stop", "-m", "immediate", "--silent")
    finally:
        shutil.rmtree(directory)
