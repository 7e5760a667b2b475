"""What the quickstart and the guides tell people to type works, and prints what they show."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"^```(bash|python|text)\n(.*?)^```$", re.M | re.S)
PAGES = ["quickstart", *(f"guides/{name}" for name in (
    "own-behavior", "tuning", "adapters-and-gguf", "air-gapped",
))]  # fmt: skip
# Keys of results.json whose own keys are what was measured on: numbers of layers, names, labels.
NAMED_BY_DATA = {"missing"}


def words(line: str) -> str:
    """What a line says, without its figures."""
    return " ".join(re.findall(r"[A-Za-z]+", line))


def performed(kind: str, body: str, place: Path) -> str:
    """Run a block as a user in a shell of theirs does; gives its standard output."""
    command = ["bash", "-euo", "pipefail", "-c"] if kind == "bash" else [sys.executable, "-c"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*command, body],
        cwd=place,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{body}\n{done.stderr}"
    return done.stdout


def keys_of(value: Any) -> Iterator[str]:
    """Every key inside a JSON value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            if key not in NAMED_BY_DATA:
                yield from keys_of(inner)
    elif isinstance(value, list):
        for inner in value[:1]:
            yield from keys_of(inner)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_can_be_followed(page: str, tmp_path: Path) -> None:
    blocks = BLOCK.findall((DOCS / f"{page}.md").read_text(encoding="utf-8"))
    assert {"bash"} <= {kind for kind, _ in blocks}
    said: set[str] = set()
    for kind, body in blocks:
        if kind != "text":
            said |= {words(line) for line in performed(kind, body, tmp_path).splitlines()}
            continue
        for line in body.splitlines():
            assert not words(line) or words(line) in said, line

    formats = (DOCS / "formats.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", formats))))
    for results in tmp_path.glob("*/results.json"):
        content = json.loads(results.read_text(encoding="utf-8"))
        content.pop("edits", None)  # by path, as typed
        assert set(keys_of(content)) <= documented


def test_no_page_to_be_followed_is_left_out() -> None:
    with_steps = {
        str(page.relative_to(DOCS).with_suffix(""))
        for page in DOCS.rglob("*.md")
        if re.search(r"^```(bash|python)$", page.read_text(encoding="utf-8"), re.M)
    }
    assert with_steps == set(PAGES)
