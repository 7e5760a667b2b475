"""`python -O` removes assertions, so none may refuse what a user gives."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import modelsurgery

SOURCES = sorted(Path(modelsurgery.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_assertions_only_say_what_type_checkers_cannot_see(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assert):
            told = ast.unparse(node.test)
            is_type = told.startswith("isinstance(") or told.endswith(" is not None")
            assert is_type, f"{source}:{node.lineno}: assert {told}"


def test_a_model_that_cannot_be_edited_is_refused_early_without_assertions(
    tiny_llama: Path, tmp_path: Path
) -> None:
    layout, texts = tmp_path / "layout.yaml", tmp_path / "texts.jsonl"
    layout.write_text(
        'prefixes: ["model.layers.{block}."]\n'
        "blocks:\n"
        "  only:\n"
        "    - {branch: mlp, spellings: [{name: mlp.no_such_proj.weight}]}\n"
    )
    texts.write_text('{"text": "wrong too, and read only when the model will do", "label": 7}\n')
    command = [
        sys.executable, "-O", "-m", "modelsurgery", "run", "--model", tiny_llama,
        "--texts", texts, "--strength", "1", "--layout", layout, "--out", tmp_path / "run",
    ]  # fmt: skip
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "no_such_proj" in done.stderr
