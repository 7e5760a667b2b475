"""Bad options and recipes: one clear line, the right exit code, nothing written or lost."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from command_line import Made, Refused, Surgery
from modelsurgery.errors import RecipeError


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--rows", "0"), "rows 0; expected at least 1"),
        (("--rows", "-3"), "rows -3; expected at least 1"),
        (("--rows", "1.5"), "rows 1.5; expected a share over 0 and at most 1.0"),
        (("--rows", "0.0"), "rows 0.0; expected a share"),
        (("--rows", "-0.5"), "rows -0.5; expected a share"),
        (("--rows", "nan"), "rows nan; expected a share"),
        (("--rows", "145"), "rows 145 means 145 rows, but the chosen layers have 144"),
        (("--rows", "100", "--layers", "2"), "the chosen layers have 48"),
        (("--rows", "many"), "rows 'many'; expected a share like 0.0465 or a count"),
        (("--layers", "0-2"), "layers 0-2; expected a range within 1-3"),
        (("--layers", "2-4"), "layers 2-4; expected a range within 1-3"),
        (("--layers", "3-1"), "layers 3-1; expected a range within 1-3"),
        (("--layers", "early"), "layers 'early'; expected a window like 8-24"),
        (("--strength", "2"), "give either alpha or strength, not both"),
        (("--alpha", "nan"), "alpha nan; expected a finite number"),
        (("--alpha", "1e300"), "alpha 1e+300; expected a finite number"),
        (("--direction-source", "W2"), "'W2' is not one of 'W1', 'W1-W0', 'mean-difference'"),
    ],
)
def test_edit_options(
    refused: Refused, made: Made, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    rest = ("--probe", made.probe, "--out", tmp_path / "out", "--alpha", 1)
    refused("edit", made.model, *rest, *options, code=2, says=says)


@pytest.mark.parametrize("count", ["0", "-1"])
def test_methods_are_not_compared_on_no_prompts(refused: Refused, count: str) -> None:
    says = f"prompts = {count}: Input should be greater than or equal to 1"
    refused("rivals", "demo", "--limit", count, code=2, says=says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--rows", "0"), "rows 0; expected at least 1"),
        (("--rows", "-1"), "rows -1; expected at least 1"),
        (("--rows", "1.5"), "rows 1.5; expected a share"),
        (("--rows", "many"), "rows 'many'"),
        (("--layers", "early"), "layers 'early'"),
        (("--alpha", "1", "--strength", "1"), "options: give either alpha or strength"),
        (("--strength", "-1"), "strength = -1.0: Input should be greater than 0"),
        (("--strength", "inf"), "strength = inf: "),
        (
            ("--direction", "sideways"),
            "Invalid value for '--direction': 'sideways' is not one of 'away', 'toward'; see",
        ),
        (("--max-perplexity", "lots"), "max-perplexity 'lots'; expected a rise like +5%"),
        (("--seed", "-1"), "seed"),
        (("--layer", "two"), "'--layer'"),
        (
            ("--behavior", "rudeness"),
            "no behavior 'rudeness'; built in: attitude, compliance, negativity",
        ),
        (("--behavior", "missing.yaml"), "no file at missing.yaml"),
        (("--frobnicate",), "--frobnicate"),
    ],
)
def test_run_options(refused: Refused, options: tuple[str, ...], says: str) -> None:
    refused("run", *options, code=2, says=says)


def test_wrong_usage(refused: Refused) -> None:
    refused("frobnicate", code=2, says="No such command 'frobnicate'; see `surgery --help`")
    refused("edit", code=2, says="Missing argument 'model'; see")
    refused("apply", "model", "edit", code=2, says="--out")


def test_nothing_given_prints_the_help(surgery: Surgery) -> None:
    outcome = surgery()
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "Usage: " in outcome.stdout


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("strenght: 2", "unknown key 'strenght'; did you mean 'strength'?"),
        ("zzzz: 2", "unknown key 'zzzz'; known: model, behavior, texts"),
        ("rows: lots", "rows = 'lots': "),
        ("[1, 2]", "expected keys and values, found list"),
        ("", "expected keys and values, found NoneType"),
        ("model: [", "not valid YAML"),
        ("seed: 2001-99-99", "not valid YAML"),
        ("rows: " + "[" * 5000, "not valid YAML"),
    ],
)
def test_recipes(refused: Refused, tmp_path: Path, recipe: str, says: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    assert str(path) in refused("run", path, code=2, says=says)


def test_missing_recipe(refused: Refused) -> None:
    refused("run", "missing.yaml", code=2, says="no file at missing.yaml")


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (0, "'--layer': Input should be greater than or equal to 1"),
        (4, "layer 4; expected 1 to 3"),
    ],
)
def test_layer_outside_the_model(
    refused: Refused, made: Made, tmp_path: Path, layer: int, says: str
) -> None:
    options = ("--texts", made.texts, "--out", tmp_path / "out", "--layer", layer)
    refused("probe", made.model, *options, code=2, says=says)


def test_a_word_that_is_no_choice(refused: Refused, made: Made, tmp_path: Path) -> None:
    rest = ("--texts", made.texts, "--out", tmp_path / "out")
    says = "Invalid value for '--fit': 'magic' is not one of 'adam', 'logistic', 'mean-difference'"
    refused("probe", made.model, *rest, "--fit", "magic", code=2, says=says)


@pytest.mark.parametrize("option", ["dtype", "device"])
def test_unknown_choice(refused: Refused, made: Made, tmp_path: Path, option: str) -> None:
    rest = ("--texts", made.texts, "--out", tmp_path / "out")
    says = f"{option} 'magic'; expected "
    refused("probe", made.model, *rest, f"--{option}", "magic", code=2, says=says)


def test_options_of_an_edited_file_are_checked_before_torch_is_imported(
    monkeypatch: pytest.MonkeyPatch, made: Made, tmp_path: Path
) -> None:
    from modelsurgery.cli import app

    monkeypatch.setitem(sys.modules, "torch", None)
    file = tmp_path / "absent.gguf"
    for options, says in (
        (["--edit", made.edit], "--edited needs --backend llama.cpp"),
        (["--backend", "llama.cpp"], "--edited needs --edit too"),
        (["--backend", "llama.cpp", "--edit", made.edit], "expected a GGUF file that is there"),
    ):
        words = [str(one) for one in ("evaluate", made.model, "--edited", file, *options)]
        with pytest.raises(RecipeError, match=says):
            CliRunner().invoke(app, words, catch_exceptions=False)
