"""`surgery run` with several models, rules or seeds: a grid whose cells are whole runs."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from modelsurgery.files.progress import Progress, silent
from modelsurgery.pipeline.grid_recipe import GridRecipe
from modelsurgery.pipeline.grids import Cell, Executor, Kept, perform_all
from modelsurgery.pipeline.recipe import Recipe
from modelsurgery.pipeline.running import run_recipe
from modelsurgery.pipeline.runs import RUN_MANIFEST, open_run
from modelsurgery.pipeline.sequence import directory_name, run_sequence
from modelsurgery.pipeline.sequence_recipe import SequenceRecipe
from modelsurgery.results import Results, read_results


@dataclass(frozen=True)
class GridRun:
    """What a grid of runs gave."""

    directory: Path  # holds a run directory for each run
    results: dict[str, Results]  # by name of the run's directory, those that are finished
    failed: dict[str, str]  # why a run gave nothing, by the same name


@dataclass(frozen=True)
class RunCell(Cell):
    """A run, or a sequence of them, below the grid's directory; chat templates are told `now`."""

    recipe: Recipe
    directory: Path
    now: datetime

    @property
    def label(self) -> str:
        """Model, behaviors, rule and seed."""
        recipe = self.recipe
        steps = recipe.recipes() if isinstance(recipe, SequenceRecipe) else [recipe]
        names = [directory_name(step) for step in steps]
        return " ".join([recipe.model_name, *names, recipe.chosen_rule, f"seed {recipe.seed}"])

    @property
    def content(self) -> Any:
        """The recipe, as JSON values."""
        return self.recipe.model_dump(mode="json", exclude={"out", "now"})

    @property
    def place(self) -> Path:
        """The run directory."""
        return self.directory / self.name

    @property
    def is_done(self) -> bool:
        """Whether the run is finished."""
        return (self.place / RUN_MANIFEST).exists()

    def planned(self) -> Recipe:
        """The recipe itself."""
        return self.recipe

    def perform(self, kept: Kept) -> None:
        """Run it, or go on with what there is of it."""
        own = self.recipe.model_copy(update={"out": self.place, "now": self.now})
        if isinstance(own, SequenceRecipe):
            run_sequence(own, progress=kept.progress)
        else:
            run_recipe(own, progress=kept.progress)


def run_grid(
    recipe: GridRecipe, *, executor: Executor | None = None, progress: Progress = silent
) -> GridRun:
    """Run a recipe with each of its models, rules and seeds.

    Args:
        recipe: with at least one run.
        executor: who runs; None does so in this process, one run after the other.
        progress: is told what is going on.

    Returns:
        What was found. Each run has a directory below the grid's, named by its content, so that
        the same recipe with the same `out` begins only those that are not finished.

    Raises:
        SurgeryError: the recipe or the executor cannot be used, or no run gave anything.
    """
    runs = recipe.runs()
    # A storage's URL may hold a password; runs get it from the recipe, and do not record it either.
    without_storage = recipe.model_copy(update={"storage": None})
    values = without_storage.model_dump(mode="json", exclude={"out"})
    name = "-".join([*dict.fromkeys(one.model_name for one in runs), "grid"])
    with open_run(recipe.out, values, default_name=name, keep=True) as grid:
        cells = [RunCell(one, grid.path, grid.now) for one in runs]
        waiting = [cell for cell in cells if not cell.is_done]
        ended = perform_all(executor, waiting, Kept(), progress)
        errors = {one.name: one.error for one in ended if one.error is not None}
        if len(errors) == len(cells):
            raise next(iter(errors.values()))
    return GridRun(
        grid.path,
        {cell.name: read_results(cell.place) for cell in cells if cell.name not in errors},
        {name: str(error) for name, error in errors.items()},
    )
