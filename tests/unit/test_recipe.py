import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelsurgery import demo_model_path
from modelsurgery.cli.options import model_directory
from modelsurgery.data.behaviors import BehaviorFile
from modelsurgery.errors import NoSignalError, OutputExistsError, RecipeError, SurgeryError
from modelsurgery.files.schema import load_yaml, parse
from modelsurgery.pipeline.evaluating import EvaluationPlan
from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.pipeline.running import described_behavior, loaded_model
from modelsurgery.pipeline.runs import RUN_MANIFEST, open_run


def test_a_recipe_reads_back_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("behavior: negativity\nrows: 0.02\nlayers: [2, 4]\ndirection: toward\n")
    recipe = load_yaml(path, Recipe)
    assert (recipe.behavior, recipe.rows, recipe.layers) == ("negativity", 0.02, (2, 4))
    assert recipe.sign == -1


def test_the_demo_model_is_known_by_name_and_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = demo_model_path()
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "demo").mkdir()  # the name is the model's all the same
    behavior = BehaviorFile(name="toxicity", demo=True)
    for model in ("demo", str(path), f"{path}/", os.path.relpath(path), "link"):
        recipe = Recipe(model=model)
        assert (recipe.is_demo_model, recipe.is_demo, recipe.model_name) == (True, True, "demo")
        plan = EvaluationPlan(model=model, behavior=behavior)
        assert (plan.is_demo_model, plan.is_demo) == (True, True)
        assert model_directory(model).samefile(path)
        assert described_behavior(recipe).name == "toxicity"
        assert loaded_model(recipe, datetime.now(UTC)).checkpoint.directory.samefile(path)
    assert not Recipe(model="./demo").is_demo_model
    assert not Recipe(model="elsewhere").is_demo_model


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

    def opened(seed: int, finish: bool = False) -> str:
        with open_run(None, {"seed": seed}, default_name="toxicity") as run:
            if finish:
                run.finish({})
        return str(run.path)

    assert opened(1) == "surgery-runs/toxicity-1"
    assert opened(2) == "surgery-runs/toxicity-2"
    assert opened(1, finish=True) == "surgery-runs/toxicity-1"  # unfinished: went on
    assert opened(1) == "surgery-runs/toxicity-3"


def test_a_finished_run_and_another_recipes_run_are_left_alone(tmp_path: Path) -> None:
    def opened(seed: int, finish: bool = False) -> None:
        with open_run(tmp_path / "run", {"seed": seed}, default_name="x") as run:
            if finish:
                run.finish({"answer": 42})

    opened(1)
    with pytest.raises(OutputExistsError):
        opened(2)
    opened(1, finish=True)
    assert (tmp_path / "run" / RUN_MANIFEST).is_file()
    with pytest.raises(OutputExistsError):
        opened(1)


def test_a_failed_run_takes_its_directory_away_and_an_interrupted_one_keeps_it(
    tmp_path: Path,
) -> None:
    def stopped_by(error: type[BaseException]) -> None:
        with open_run(tmp_path / "deep" / "run", {}, default_name="x"):
            raise error("stop")

    with pytest.raises(RecipeError):
        stopped_by(RecipeError)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt):
        stopped_by(KeyboardInterrupt)
    assert (tmp_path / "deep" / "run" / "recipe.resolved.yaml").is_file()
    with pytest.raises(RecipeError):
        stopped_by(RecipeError)
    assert (tmp_path / "deep" / "run").is_dir()  # what the interrupted run saved is not lost


@pytest.mark.parametrize("error", [RecipeError, NoSignalError])
def test_a_failed_run_leaves_those_alone_that_began_beside_it(
    tmp_path: Path, error: type[SurgeryError]
) -> None:
    runs = tmp_path / "surgery-runs"

    def failing() -> None:
        with open_run(runs / "first-1", {}, default_name="x"):
            with open_run(runs / "second-1", {}, default_name="x") as other:
                other.finish({"answer": 42})
            raise error("stop")

    with pytest.raises(error):
        failing()
    assert [one.name for one in runs.iterdir()] == ["second-1"]
    assert (runs / "second-1" / RUN_MANIFEST).is_file()
