"""What the quickstart and the guides tell people to type works, and prints what they show."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import full_run
import pytest

import searched
from command_line import surgery_commands
from less_data import WITH_LESS_DATA

pytestmark = pytest.mark.slow
DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"^```(bash|python|text)\n(.*?)^```$", re.M | re.S)
# Followed with the program that is installed; others with one that has imported its libraries.
WITH_THE_REAL_PROGRAM = "guides/air-gapped"
PAGES = ["quickstart", *(f"guides/{name}" for name in (
    "own-behavior", "tuning", "adapters-and-gguf", "air-gapped", "object-stores",
))]  # fmt: skip


class Shared(NamedTuple):
    """A run that several tests look at: the fixture that makes it, and the group of those tests."""

    fixture: str
    group: str


SHARED = {
    full_run.COMMAND: Shared("full_run", "full run"),
    searched.COMMAND: Shared("searched", "search"),
}
# Keys of results.json whose own keys are what was measured on: numbers of layers, names, labels.
NAMED_BY_DATA = {"missing"}


def words(line: str) -> str:
    """What a line says, without its figures."""
    return " ".join(re.findall(r"[A-Za-z]+", line))


def performed(kind: str, body: str, place: Path, *programs: Path) -> str:
    """Run a block as a user in a shell of theirs does; gives its standard output."""
    command = ["bash", "-euo", "pipefail", "-c"] if kind == "bash" else [sys.executable, "-c"]
    places = (*programs, Path(sys.executable).parent, os.environ["PATH"])
    path = os.pathsep.join(map(str, places))
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


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a `surgery` that starts at once and takes less data."""
    return surgery_commands().write_stand_in(tmp_path_factory.mktemp("programs"), WITH_LESS_DATA)


def page_to_follow(page: str) -> Any:
    """A page, among the tests that look at a run where it has the command of that run."""
    lines = (DOCS / f"{page}.md").read_text(encoding="utf-8").splitlines()
    groups = [shared.group for command, shared in SHARED.items() if command in lines] or [page]
    return pytest.param(page, marks=pytest.mark.xdist_group(groups[0]))


@pytest.mark.parametrize("page", [page_to_follow(page) for page in PAGES])
def test_a_page_can_be_followed(
    page: str, tmp_path: Path, stand_in: Path, request: pytest.FixtureRequest
) -> None:
    programs = () if page == WITH_THE_REAL_PROGRAM else (stand_in,)
    blocks = BLOCK.findall((DOCS / f"{page}.md").read_text(encoding="utf-8"))
    assert {"bash"} <= {kind for kind, _ in blocks}
    said: set[str] = set()
    for kind, body in blocks:
        command, _, rest = body.partition("\n")
        if command in SHARED:  # other tests look at this run, too
            run = request.getfixturevalue(SHARED[command].fixture)
            shutil.copytree(run.directory, tmp_path / run.directory.name)
            said |= {words(line) for line in run.printed.splitlines()}
            body = rest
        if kind != "text":
            printed = performed(kind, body, tmp_path, *programs)
            said |= {words(line) for line in printed.splitlines()}
            continue
        for line in body.splitlines():
            assert not words(line) or words(line) in said, line

    formats = (DOCS / "formats.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", formats))))
    for results in tmp_path.glob("*/results.json"):
        content = json.loads(results.read_text(encoding="utf-8"))
        content.pop("edits", None)  # by path, as typed
        assert set(keys_of(content)) <= documented


def test_each_shared_run_is_typed_in_a_page() -> None:
    typed = [line for page in PAGES for line in (DOCS / f"{page}.md").read_text().splitlines()]
    assert set(SHARED) <= set(typed)


def test_no_page_to_be_followed_is_left_out() -> None:
    with_steps = {
        str(page.relative_to(DOCS).with_suffix(""))
        for page in DOCS.rglob("*.md")
        if re.search(r"^```(bash|python)$", page.read_text(encoding="utf-8"), re.M)
    }
    assert with_steps - {"reference"} == set(PAGES)  # its examples run in unit/test_reference
