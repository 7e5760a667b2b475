"""`python -O` removes assertions, so none may refuse what a user gives."""

import ast
import tempfile
from pathlib import Path

import pytest

import modelsurgery
from command_line import surgery_commands, written

# As `python -O` does, but for the libraries, which take long to compile anew: the program is
# imported again, each of its modules without assertions, and run.
WITHOUT_ASSERTIONS = """
import sys
from importlib.machinery import SourceFileLoader

SourceFileLoader.get_code = lambda loader, name: compile(
    loader.get_data(loader.path), loader.path, "exec", dont_inherit=True, optimize=1
)
for name in [name for name in sys.modules if name.partition(".")[0] == "modelsurgery"]:
    del sys.modules[name]
import modelsurgery.cli

modelsurgery.cli.main()
"""
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
    with tempfile.TemporaryFile() as errors:
        code = surgery_commands().start(
            "run", "--model", tiny_llama, "--texts", texts, "--strength", "1", "--layout", layout,
            "--out", tmp_path / "run", before=WITHOUT_ASSERTIONS, stderr=errors,
        ).wait()  # fmt: skip
        told = written(errors)
    assert code == 2, told
    assert "no_such_proj" in told
