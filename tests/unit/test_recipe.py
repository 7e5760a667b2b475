from pathlib import Path

import pytest

from modelsurgery.errors import OutputExistsError, RecipeError
from modelsurgery.recipe import Recipe
from modelsurgery.runs import MANIFEST_FILE, open_run
from modelsurgery.schema import load_yaml, parse


def test_a_recipe_reads_back_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("behavior: negativity\nrows: 0.02\nlayers: [2, 4]\ndirection: toward\n")
    recipe = load_yaml(path, Recipe)
    assert (recipe.behavior, recipe.rows, recipe.layers) == ("negativity", 0.02, (2, 4))
    assert recipe.sign == -1


def test_an_unknown_key_is_refused_with_a_suggestion() -> None:
    with pytest.raises(RecipeError, match="unknown key 'strenght'; did you mean 'strength'"):
        parse({"strenght": 3}, Recipe, "recipe.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"direction": "sideways"}, "direction = 'sideways'"),
        ({"rows": 0}, "rows = 0"),
        ({"rows": 1.5}, "rows = 1.5"),
        ({"strength": -1.0}, "strength = -1.0"),
        ({"strength": float("nan")}, "strength = nan"),
        ({"alpha": 1.0, "strength": 2.0}, "either alpha or strength"),
        ({"samples": 0}, "samples = 0"),
        ({"max_perplexity_rise": 0}, "max_perplexity_rise = 0"),
    ],
)
def test_wrong_values_are_refused_by_name(content: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(content, Recipe, "recipe.yaml")


def test_the_first_free_run_directory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = open_run(None, {"seed": 1}, default_name="toxicity")
    assert first.path == Path("surgery-runs/toxicity-1")
    assert open_run(None, {"seed": 1}, default_name="toxicity") == first  # unfinished: goes on
    assert open_run(None, {"seed": 2}, default_name="toxicity").path.name == "toxicity-2"
    first.finish({})
    assert open_run(None, {"seed": 1}, default_name="toxicity").path.name == "toxicity-3"


def test_a_finished_run_and_another_recipes_run_are_left_alone(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", {"seed": 1}, default_name="x")
    with pytest.raises(OutputExistsError):
        open_run(tmp_path / "run", {"seed": 2}, default_name="x")
    run.finish({"answer": 42})
    assert (tmp_path / "run" / MANIFEST_FILE).is_file()
    with pytest.raises(OutputExistsError):
        open_run(tmp_path / "run", {"seed": 1}, default_name="x")
