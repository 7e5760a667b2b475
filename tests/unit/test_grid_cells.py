"""Names of cells, what workers keep from one to the next, and one view of all of them."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelsurgery.cli.options import chosen_executor
from modelsurgery.errors import RecipeError, UnsupportedModelError
from modelsurgery.files.progress import Advance, Progress
from modelsurgery.pipeline.grid_recipe import GridRecipe
from modelsurgery.pipeline.grids import Cell, Ended, InProcess, Kept, OnRay, Processes, perform_all
from modelsurgery.pipeline.grids.telling import Shown, Stage, Telling
from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.pipeline.run_grid import run_grid
from modelsurgery.pipeline.runs import RECIPE_FILE


@dataclass(frozen=True)
class Noted(Cell):
    """Writes its number, or fails."""

    number: int
    directory: Path
    error: Exception | None = None

    @property
    def label(self) -> str:
        return f"cell/{self.number}"

    @property
    def content(self) -> Any:
        return [self.number]

    def planned(self) -> Recipe:
        return Recipe()

    def perform(self, kept: Kept) -> None:
        if self.error is not None:
            raise self.error
        with kept.progress("count", 2) as advance:
            advance(2, tokens=self.number)
        (self.directory / str(self.number)).touch()


@dataclass
class Recorded:
    """A progress that remembers what each stage came to."""

    stages: list[list[Any]] = field(default_factory=list)
    is_open: list[str] = field(default_factory=list)

    @contextmanager
    def __call__(self, stage: str, total: int) -> Iterator[Advance]:
        found: list[Any] = [stage, total, 0, 0]
        self.stages.append(found)
        self.is_open.append(stage)

        def advance(steps: int, *, tokens: int = 0) -> None:
            found[2] += steps
            found[3] += tokens

        try:
            yield advance
        finally:
            self.is_open.remove(stage)


def test_a_name_says_what_a_cell_is_and_changes_with_its_content(tmp_path: Path) -> None:
    name = Noted(1, tmp_path).name
    assert name == Noted(1, tmp_path / "elsewhere").name
    assert name.startswith("cell-1-")
    assert name != Noted(2, tmp_path).name


def test_cells_that_fail_do_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refused, fault = UnsupportedModelError("not this one"), ZeroDivisionError("a fault")
    cells = [Noted(1, tmp_path, refused), Noted(2, tmp_path, fault), Noted(3, tmp_path)]
    recorded = Recorded()
    ended = perform_all(InProcess(), cells, Kept(), recorded)
    assert [one.name for one in ended] == [cell.name for cell in cells]
    assert ended[0].error is refused
    assert not ended[0].is_lost
    assert str(ended[1].error) == "ZeroDivisionError: a fault"
    assert ended[1].is_lost
    assert ended[2].error is None
    assert [path.name for path in tmp_path.iterdir()] == ["3"]
    assert recorded.stages == [["cells", 3, 3, 0], ["count", 2, 2, 3]]
    assert "cell/2 failed" in caplog.text


def test_what_is_kept_is_made_once_and_closed_with_what_it_was_made_from() -> None:
    closed: list[str] = []

    def maker(name: str, stack: ExitStack) -> list[str]:
        stack.callback(closed.append, name)
        return [name]

    kept = Kept()
    first = kept.get(0, "model", lambda stack: maker("model", stack))
    kept.get(1, "bench", lambda stack: maker("bench", stack))
    assert kept.get(0, "model", lambda stack: maker("again", stack)) is first
    assert closed == []
    kept.get(0, "other", lambda stack: maker("other", stack))
    assert closed == ["bench", "model"]
    kept.drop()
    assert closed == ["bench", "model", "other"]


def test_what_cannot_be_made_is_not_tried_again() -> None:
    tries: list[int] = []

    def fail(_: ExitStack) -> None:
        tries.append(1)
        raise UnsupportedModelError("no such model")

    kept = Kept()
    for _ in range(2):
        with pytest.raises(UnsupportedModelError, match="no such model"):
            kept.get(0, "model", fail)
    assert tries == [1]


def test_what_workers_tell_is_shown_as_one_stage_a_cell() -> None:
    recorded = Recorded()
    shown = Shown(recorded)
    shown.show(Stage("a", "read", 10, 4, 100))
    shown.show(Stage("b", "load", 0))
    assert recorded.is_open == ["a: read", "b: load"]
    shown.show(Stage("a", "read", 10, 9, 300))
    shown.show(Stage("a", "write", 5))
    assert recorded.is_open == ["b: load", "a: write"]
    assert recorded.stages == [
        ["a: read", 10, 9, 300], ["b: load", 0, 0, 0], ["a: write", 5, 0, 0],
    ]  # fmt: skip
    shown.end("b")
    shown.close()
    assert recorded.is_open == []


def test_a_worker_tells_of_stages_at_once_and_of_steps_at_times() -> None:
    told: list[tuple[str, int]] = []
    telling = Telling("a", lambda stage: told.append((stage.name, stage.steps)))
    with telling("read", 1000) as advance:
        for _ in range(1000):
            advance(1)
    with telling("write", 1):
        pass
    assert told[0] == ("read", 0)
    assert told[-1] == ("write", 0)
    assert 2 < len(told) < 10


def test_a_grid_of_runs_has_each_combination() -> None:
    recipe = GridRecipe(
        models=("demo", "smollm2"), seeds=(0, 3, 0), strength=2, behavior="toxicity"
    )
    runs = recipe.runs()
    assert [(one.model, one.seed) for one in runs] == [
        ("demo", 0), ("demo", 3), ("smollm2", 0), ("smollm2", 3),
    ]  # fmt: skip
    assert all(one.strength == 2 and one.behavior == "toxicity" for one in runs)
    (sequence,) = GridRecipe(rules=("paper",), behaviors=("toxicity", "refusal")).runs()
    assert sequence.rule == "paper"


def test_a_grid_refuses_what_its_runs_cannot_have() -> None:
    with pytest.raises(RecipeError, match="study: each run of a grid keeps its own"):
        GridRecipe(seeds=(0, 1), study=Path("s.journal")).runs()
    with pytest.raises(RecipeError, match="rule = 'best'"):
        GridRecipe(rules=("best",)).runs()


def test_a_grid_does_not_record_a_password(tmp_path: Path) -> None:
    class Interrupted:
        def run(self, cells: Sequence[Cell], kept: Kept, progress: Progress) -> Iterator[Ended]:
            raise KeyboardInterrupt

    url = "postgresql://me:secret@db.example/trials"
    recipe = GridRecipe(seeds=(0, 1), tune=True, storage=url, out=tmp_path / "grid")
    assert [one.storage for one in recipe.runs()] == [url, url]
    with pytest.raises(KeyboardInterrupt):
        run_grid(recipe, executor=Interrupted())
    recorded = (tmp_path / "grid" / RECIPE_FILE).read_text()
    assert yaml.safe_load(recorded)["storage"] is None
    assert "secret" not in recorded


def test_who_measures_is_chosen_by_options() -> None:
    assert chosen_executor(None, None, None, None) is None
    assert chosen_executor(2, None, None, None) == Processes(2)
    assert chosen_executor(None, "auto", 0.5, 4) == OnRay("auto", 0.5, 4)
    with pytest.raises(RecipeError, match="either --workers or --ray"):
        chosen_executor(2, "auto", None, None)
    with pytest.raises(RecipeError, match="--gpus is for tasks on a cluster; give --ray too"):
        chosen_executor(2, None, 1, None)
