"""docs/reference.md is the docstrings of the public API: it is current, whole, and runs."""

import doctest
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import griffe
import numpy as np
import pytest

import modelsurgery as ms
from modelsurgery.data import demo
from tools.api_reference import SOURCES, reference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference.md"
FUNCTIONS = [name for name in ms.__all__ if not inspect.isclass(getattr(ms, name))]
OPTIONS = doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def package() -> griffe.Module:
    found = griffe.load("modelsurgery", search_paths=[SOURCES], docstring_parser="google")
    assert isinstance(found, griffe.Module)
    return found


@pytest.fixture(scope="module")
def names(demo_path: Path) -> dict[str, Any]:
    """What the head of the page says that examples begin with."""
    model = ms.load_model(demo_path)
    gates = ms.find_gate_matrices(model.checkpoint)
    direction = np.random.default_rng(0).standard_normal(gates[0].hidden_size).astype(np.float32)
    scores = ms.score_rows(model.checkpoint, gates, direction[None])
    edit = ms.make_edit(ms.select_region(scores, 60), direction, strength=0.5)
    return {
        **{name: getattr(ms, name) for name in ms.__all__},
        "model": model,
        "checkpoint": model.checkpoint,
        "gates": gates,
        "direction": direction,
        "scores": scores,
        "edit": edit.bound_to(model.checkpoint, gates),
    }


@pytest.fixture
def workplace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_path: Path, names: dict[str, Any]
) -> Path:
    """A directory with the files that examples name."""
    for copy in ("model", "own-model"):
        shutil.copytree(demo_path, tmp_path / copy)
    rows = demo.labeled_texts("toxicity", 60, 0)
    lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
    (tmp_path / "texts.jsonl").write_text("".join(lines))
    (tmp_path / "layout.yaml").write_text(
        'prefixes: ["model.layers.{block}."]\n'
        "blocks: {dense: [{branch: mlp, spellings: [{name: mlp.gate_proj.weight}]}]}\n"
    )
    names["edit"].save(tmp_path / "edit.safetensors")
    weight = np.stack([-names["direction"], names["direction"]])
    probe = ms.Probe(weight, np.zeros(2, np.float32), 4, "logistic", names["direction"])
    ms.save_probe(probe, tmp_path / "probe.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_is_the_one_that_the_docstrings_give() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_and_result_of_a_function_is_described(
    package: griffe.Module, name: str
) -> None:
    function = package[f"{ms._MODULES[name]}.{name}"]
    function = function.final_target if function.is_alias else function
    sections = {one.kind.value: one.value for one in function.docstring.parse("google")}
    described = {one.name.lstrip("*") for one in sections.get("parameters", ())}
    assert described == {one.name for one in function.parameters}
    gives = str(function.returns) != "None"
    assert gives == ("returns" in sections or "yields" in sections)
    assert "raises" in sections


@pytest.mark.parametrize("name", ms.__all__)
def test_the_example_of_a_name_runs(name: str, workplace: Path, names: dict[str, Any]) -> None:
    documented = inspect.getdoc(getattr(ms, name)) or ""
    examples = doctest.DocTestParser().get_doctest(documented, dict(names), name, None, None)
    assert examples.examples, "no example"
    said: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(examples, out=said.append)
    assert not said, "".join(said)
