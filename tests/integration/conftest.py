from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import Made, Refused, Surgery, contents, surgery_commands, write_labeled
from killing import Killer, killing
from postgres import postgres_server


@pytest.fixture(scope="session")
def surgery() -> Surgery:
    return surgery_commands()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a database; tests that use it are of the group "postgres"."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    with killing() as served:
        yield served


@pytest.fixture
def refused(surgery: Surgery, tmp_path: Path) -> Refused:
    """Expect a code, one line that says `says`, and nothing written or lost in `tmp_path`."""

    def refuse(*arguments: object, code: int, says: str) -> str:
        before = contents(tmp_path)
        outcome = surgery(*arguments, workplace=tmp_path)
        assert outcome.code == code, outcome.stderr
        assert outcome.stderr.startswith("surgery: "), outcome.stderr
        assert outcome.stderr.count("\n") == 1, outcome.stderr
        assert says in outcome.stderr
        assert outcome.stdout == ""
        assert contents(tmp_path) == before
        return outcome.stderr

    return refuse


@pytest.fixture(scope="session")
def made(surgery: Surgery, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Probe, edit and edited copy of the tiny Llama, made on the command line."""
    directory = tmp_path_factory.mktemp("made")
    texts = write_labeled(directory / "texts.jsonl")
    probe, edit = directory / "probe.safetensors", directory / "edit.safetensors"
    edited = directory / "edited"
    for arguments in (
        ("probe", tiny_llama, "--texts", texts, "--out", probe),
        ("edit", tiny_llama, "--probe", probe, "--strength", 1, "--out", edit),
        ("apply", tiny_llama, edit, "--out", edited),
    ):
        outcome = surgery(*arguments)
        assert outcome.code == 0, outcome.stderr
        assert outcome.stderr == ""
    return Made(tiny_llama, texts, probe, edit, edited)
